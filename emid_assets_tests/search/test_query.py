"""A new file against a lake: what is encoded is as long as the inventory would say that it is."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from emid_assets.encoders.bundled import preprocessing
from emid_assets.media.audio import Samples, read_audio
from emid_assets.media.inventory import take_inventory
from emid_assets.search.query import QueryError, query
from emid_assets.settings import Settings
from emid_assets_tests.media.ffmpeg import decode_audio
from emid_assets_tests.search.conftest import Built

RATE = 22_050


class RealInputs:
    """The input that the bundled encoder makes of a file, and vectors of the small lake's dimension."""

    name, fingerprint = "bundled", "f1"
    prepare_music = staticmethod(preprocessing.prepare_music)

    def encode_music(self, batch: Sequence[Samples]) -> Samples:
        return np.ones((len(batch), 24), np.float32)


def write_odd_files(folder: Path) -> None:
    """Files whose headers do not tell their length, one that holds two streams, and one far out of scale."""
    random = np.random.default_rng(0)
    samples = 0.2 * random.standard_normal((5 * RATE, 1)).astype(np.float32)
    samples[: 2 * RATE] *= 0.001
    soundfile.write(folder / "a.mp3", samples, RATE, bitrate_mode="VARIABLE", compression_level=0.4)
    content = (folder / "a.mp3").read_bytes()
    (folder / "a.mp3").write_bytes(content[content.index(content[:2], 4) :])
    (folder / "b.mp3").write_bytes(content + content)
    soundfile.write(folder / "c.wav", samples, RATE, subtype="PCM_16")
    piped = bytearray((folder / "c.wav").read_bytes())
    at = piped.index(b"data") + 4
    piped[4:8] = piped[at : at + 4] = struct.pack("<I", 0x7FFFFFFF)
    (folder / "c.wav").write_bytes(piped)
    soundfile.write(folder / "d.flac", samples, RATE)
    piped = bytearray((folder / "d.flac").read_bytes())
    piped[21] &= 0xF0
    piped[22:26] = bytes(4)
    (folder / "d.flac").write_bytes(piped)
    soundfile.write(folder / "e.ogg", samples, RATE)
    (folder / "e.ogg").write_bytes(2 * (folder / "e.ogg").read_bytes())
    soundfile.write(folder / "f.wav", 32_768 * samples, RATE, subtype="FLOAT")


def test_a_query_hears_what_the_inventory_lists_and_refuses_what_it_rejects(
    tmp_path: Path,
    built: Built,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sad = tmp_path / "media" / "music" / "sad"
    sad.mkdir(parents=True)
    write_odd_files(sad)
    inventory = {row["item_id"]: row for row in take_inventory(tmp_path / "media").to_dicts()}
    heard: list[float] = []

    def listening(*place: object) -> tuple[Samples, int]:
        samples, rate = read_audio(*place)  # type: ignore[arg-type]
        heard.append(samples.shape[1] / rate)
        return samples, rate

    monkeypatch.setattr(preprocessing, "read_audio", listening)
    monkeypatch.setattr("emid_assets.search.query.encoder_from", lambda _: RealInputs())
    settings = Settings(media=str(tmp_path / "media"), lake=str(built.lake.root))
    for name in ("a.mp3", "b.mp3", "c.wav", "d.flac"):
        assert query("music", sad / name, settings, "bmf", top=3).results.height == 3
        expected, rate = decode_audio(sad / name)
        assert heard.pop() == inventory[f"sad/{name}"]["duration_s"]
        assert inventory[f"sad/{name}"]["duration_s"] == pytest.approx(expected.shape[1] / rate, abs=0.05)
    heard.clear()
    for name, why in (("e.ogg", "several streams one after the other"), ("f.wav", "of full scale")):
        reason = inventory[f"sad/{name}"]["reason"]
        assert why in reason
        with pytest.raises(QueryError) as refused:
            query("music", sad / name, settings, "bmf")
        assert str(refused.value) == f"{sad / name}: {reason}"
    assert heard == []
