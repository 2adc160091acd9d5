"""The tagging networks: against a plain numpy forward pass, TensorFlow's own answers, and music by ear."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from emid_assets.encoders.bundled.encoder import read_weights
from emid_assets.encoders.interface import MediaItem, PreparationError
from emid_assets.media.audio import resample
from emid_assets.prediction.music_rule import ALL_TAGS, REFERENCE_FILE
from emid_assets.prediction.musicnn import CHECKPOINTS, MusicTagger, load_musicnn
from emid_assets.prediction.musicnn_input import log_mel, mel_bank, prepare_tagging, tagging_input
from emid_assets.prediction.tensorflow_checkpoint import read_checkpoint

Floats = NDArray[np.float64]


def signal(seconds: float) -> NDArray[np.float32]:
    """Tones with beats, loud and soft parts, and a little noise: 16 kHz."""
    t = np.arange(round(seconds * 16_000)) / 16_000
    tones = sum(0.3 / k * np.sin(2 * np.pi * 220 * k * t * (1 + 0.002 * np.sin(3 * t))) for k in range(1, 6))
    beat = np.exp(-8 * (t % 0.5))
    noise = np.random.default_rng(0).standard_normal(len(t)) * 0.02
    return np.clip(tones * beat + noise, -1, 1).astype(np.float32)


def plain_forward(weights: dict[str, NDArray[np.float32]], patch: Floats) -> Floats:
    """The network on one patch (frames, 96), in float64, channels last and by the names of the checkpoint."""
    w = {name: values.astype(np.float64) for name, values in weights.items()}

    def normalise(x: Floats, place: int) -> Floats:
        name = "batch_normalization" + (f"_{place}" if place else "")
        spread = np.sqrt(w[f"{name}/moving_variance"] + 1e-3)
        return (x - w[f"{name}/moving_mean"]) / spread * w[f"{name}/gamma"] + w[f"{name}/beta"]

    def convolve(x: Floats, place: int) -> Floats:
        """(time, height) to (time', height', channels), nothing padded, then ReLU."""
        name = "conv2d" + (f"_{place}" if place else "")
        kernel = w[f"{name}/kernel"][:, :, 0]
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2])
        return np.maximum(np.tensordot(windows, kernel, axes=2) + w[f"{name}/bias"], 0)

    x = normalise(patch[..., None], 0)[..., 0]
    front = []
    for place, (before, after) in enumerate([(3, 3), (3, 3), (63, 64), (31, 32), (15, 16)]):
        padded = np.pad(x, ((before, after), (0, 0)))
        front.append(normalise(convolve(padded, place), place + 1).max(axis=1))
    features = [np.concatenate(front, axis=1)]
    for place in (5, 6, 7):
        found = normalise(convolve(np.pad(features[-1], ((3, 3), (0, 0))), place)[:, 0], place + 1)
        features.append(found if place == 5 else found + features[-1])
    together = np.concatenate(features, axis=1)
    pooled = np.empty(2 * together.shape[1])
    pooled[0::2], pooled[1::2] = together.max(axis=0), together.mean(axis=0)
    hidden = np.maximum(normalise(pooled, 9) @ w["dense/kernel"] + w["dense/bias"], 0)
    return normalise(hidden, 10) @ w["dense_1/kernel"] + w["dense_1/bias"]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_network_is_the_plain_forward_pass(name: str) -> None:
    patch = tagging_input(signal(3.2))[0]
    expected = plain_forward(read_checkpoint(*map(read_weights, CHECKPOINTS[name])), patch.astype(np.float64))
    found = load_musicnn([name], torch.device("cpu"))(torch.from_numpy(patch)[None])[0, 0].double().numpy()
    np.testing.assert_allclose(found, expected, rtol=5e-6, atol=2e-5)  # float32, on any processor
    assert expected.std() > 1  # tags do differ


PUBLISHED = json.loads(Path(__file__).with_name("musicnn_tensorflow.json").read_text(encoding="utf-8"))
"""What the package's own code gives for `signal(3.2)`, run once with TensorFlow and librosa."""


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_network_answers_as_the_package_does_in_tensorflow(name: str) -> None:
    patch = tagging_input(signal(3.2))[0]
    found = load_musicnn([name], torch.device("cpu"))(torch.from_numpy(patch)[None])[0, 0].numpy()
    np.testing.assert_allclose(found, PUBLISHED[name], atol=2e-4)


def test_log_mel_is_that_of_librosa() -> None:
    found = log_mel(signal(3.2))[np.ix_(PUBLISHED["mel_frames"], PUBLISHED["mel_bands"])]
    np.testing.assert_allclose(found, PUBLISHED["mel"], atol=2e-5)


def test_log_mel_is_that_of_a_discrete_fourier_transform_written_out() -> None:
    samples = signal(0.1)
    found = log_mel(samples)
    assert found.shape == (1 + len(samples) // 256, 96)
    padded = np.concatenate([samples[256:0:-1], samples, samples[-2:-258:-1]]).astype(np.float64)
    n = np.arange(512)
    turns = np.exp(-2j * np.pi * np.outer(np.arange(257), n) / 512)
    for frame in (0, 2, len(found) - 1):
        windowed = padded[256 * frame : 256 * frame + 512] * np.sin(np.pi * n / 512) ** 2
        bands = mel_bank() @ np.abs(turns @ windowed) ** 2
        np.testing.assert_allclose(found[frame], np.log10(10_000 * bands + 1), rtol=1e-5, atol=1e-6)


def test_a_mel_band_is_a_triangle_of_area_one_over_hertz() -> None:
    bank = mel_bank()
    assert bank.shape == (96, 257)
    wide = bank[60:]  # narrow triangles fall between the bins
    np.testing.assert_allclose(wide.sum(axis=1) * 16_000 / 512, 1.0, rtol=0.05)
    centres = bank.argmax(axis=1) * 16_000 / 512
    assert (np.diff(centres) >= 0).all()
    ratios = centres[-20:][1:] / centres[-20:][:-1]
    assert ratios.std() < 0.01  # logarithmic above 1,000 Hz


def test_a_clip_is_repeated_to_a_patch_and_a_long_one_is_sampled_evenly() -> None:
    assert tagging_input(signal(1.0)).shape == (1, 187, 96)
    assert tagging_input(signal(7.0)).shape == (2, 187, 96)
    long = tagging_input(np.tile(signal(3.0), 40))
    assert long.shape == (20, 187, 96)


def test_digital_silence_is_left_out_and_silence_throughout_is_an_error() -> None:
    loud = signal(3.2)
    silence = np.zeros(3 * 187 * 256, np.float32)
    gated = tagging_input(np.concatenate([loud, silence, loud]))
    assert len(gated) < len(silence) // (187 * 256) + 2
    assert (gated.max(axis=(1, 2)) > 0.5).all()
    with pytest.raises(PreparationError, match="silent"):
        tagging_input(silence)
    with pytest.raises(PreparationError, match="empty"):
        tagging_input(silence[:0])
    with pytest.raises(PreparationError, match="finite"):
        tagging_input(np.full(9, np.nan, np.float32))


def test_tags_of_the_samples_are_what_one_hears(sample_media: Path) -> None:
    heard = {
        "14_I_09-wings-of-cruelty": {"MTT loud", "MTT rock", "MTT metal", "MSD metal", "MSD hard rock"},
        "08_E_safe-room-theme": {"MTT piano", "MTT slow", "MTT quiet", "MSD jazz"},
        "15_J_upbeat": {"MTT techno", "MTT beat", "MSD dance", "MSD House", "MSD electronic"},
        "22_M_title-theme": {"MTT guitar", "MTT soft"},
        "07_E_ambient1": {"MTT sitar", "MTT indian", "MTT slow"},
    }
    items = [MediaItem(name, sample_media / "music" / f"{name}.ogg", "") for name in heard]
    rows = MusicTagger("cpu").encode_music([prepare_tagging(item) for item in items])
    for row, (name, expected) in zip(rows, heard.items(), strict=True):
        highest = [np.argsort(-row[:50])[:5], 50 + np.argsort(-row[50:])[:5]]
        assert expected <= {ALL_TAGS[place] for place in np.concatenate(highest)}, name


def test_the_reference_of_the_rule_was_made_with_these_networks() -> None:
    stored = json.loads(REFERENCE_FILE.read_text(encoding="utf-8"))
    assert stored["tagger"] == MusicTagger("cpu").fingerprint


def test_a_clip_has_the_same_tags_in_any_company() -> None:
    tagger = MusicTagger("cpu")
    assert tagger.encode_music([tagging_input(signal(4.0))]).shape == (1, 100)
    one, other = tagging_input(signal(4.0)), tagging_input(signal(6.5)[::-1].copy())
    together = tagger.encode_music([one, other])
    np.testing.assert_array_equal(together[:1], tagger.encode_music([one]))
    np.testing.assert_array_equal(together[1:], tagger.encode_music([other]))


def test_a_file_of_another_rate_is_heard_as_the_same_music(tmp_path: Path) -> None:
    samples = signal(4.0)
    path = tmp_path / "a.wav"
    soundfile.write(path, resample(samples[None], 16_000, 44_100)[0], 44_100, subtype="FLOAT")
    found = prepare_tagging(MediaItem("a", path, ""))
    assert np.abs(found - tagging_input(samples)).mean() < 0.02
