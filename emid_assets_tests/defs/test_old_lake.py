"""A lake that an earlier reader of media made: its facts and embeddings are made again, once."""

import importlib.util
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import soundfile

from emid_assets.definitions import build_definitions
from emid_assets.defs.media import _folder_digest
from emid_assets.encoders import load
from emid_assets.encoders.bundled import fingerprint
from emid_assets.media import contents
from emid_assets.media.audio import AudioFacts, read_audio
from emid_assets.settings import load_settings
from emid_assets.store.lake import WHOLE_TABLE, Lake
from emid_assets_tests.defs.tiny_media import write_image


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A stream of 6 s without a header, of which the estimate of its length covers a part, and a picture."""
    sad = tmp_path / "media" / "music" / "sad"
    sad.mkdir(parents=True)
    rng = np.random.default_rng(0)
    samples = 0.2 * rng.standard_normal((6 * 22_050, 1))
    samples[: 4 * 22_050] *= 0.001
    soundfile.write(sad / "stream.mp3", samples, 22_050, bitrate_mode="VARIABLE", compression_level=0.4)
    content = (sad / "stream.mp3").read_bytes()
    (sad / "stream.mp3").write_bytes(content[content.index(content[:2], 4) :])
    write_image(tmp_path / "media" / "images" / "awe" / "a.png", 0)
    return tmp_path / "media"


def build(media: Path, lake: Lake) -> dict[str, object]:
    """Run the inventory and the embeddings of sad music; what was encoded, and the clip's length."""
    definitions = build_definitions(lake=str(lake.root), media=str(media), workers=0)
    encoded: object = None
    with dg.DagsterInstance.ephemeral() as instance:
        for job, key in (("inventory", None), ("embed_music", "sad")):
            result = definitions.resolve_job_def(job).execute_in_process(partition_key=key, instance=instance)
            for event in result.get_asset_materialization_events():
                if event.asset_key == dg.AssetKey("music_embeddings"):
                    encoded = event.materialization.metadata["encoded"].value
    (seconds,) = lake.read("music_clips")["duration_s"]
    return {"encoded": encoded, "seconds": seconds}


def _reload_encoder() -> None:
    """Forget the encoder that this process keeps, as a new process has none."""
    load._loaded.cache_clear()


@pytest.mark.slow
def test_the_files_of_an_old_lake_are_read_again_once(
    tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path / "lake")
    _reload_encoder()
    with monkeypatch.context() as before:
        # The earlier reader: libsndfile's estimate, and an inventory and a fingerprint that name no reader.
        before.setattr("emid_assets.defs.media.READER_VERSION", None)
        before.setattr(fingerprint, "READER_VERSION", "1")
        before.setattr(contents, "probe_audio", lambda *_: AudioFacts(3.5, 22_050, 1))
        before.setattr(
            "emid_assets.encoders.bundled.preprocessing.read_audio",
            lambda *place: (read_audio(*place)[0][:, : 7 * 22_050 // 2], 22_050),
        )
        assert build(media, lake) == {"encoded": 1, "seconds": 3.5}
        assert build(media, lake) == {"encoded": 0, "seconds": 3.5}
    old = lake.read("music_embeddings")
    _reload_encoder()
    upgraded = build(media, lake)
    assert upgraded == {"encoded": 1, "seconds": pytest.approx(6, abs=0.1)}
    new = lake.read("music_embeddings")
    assert old["content_hash"].equals(new["content_hash"])
    assert not np.allclose(old["embedding"].to_numpy(), new["embedding"].to_numpy())
    assert build(media, lake) == {"encoded": 0, "seconds": upgraded["seconds"]}
    assert lake.read("music_embeddings").equals(new)


def test_an_inventory_without_notes_is_taken_again_and_a_silent_channel_is_told(
    tmp_path: Path, media: Path
) -> None:
    sound = 0.2 * np.random.default_rng(1).standard_normal(3 * 22_050)
    soundfile.write(media / "music/sad/half.wav", np.stack([0 * sound, sound], axis=1), 22_050)
    lake = Lake(tmp_path / "lake")
    job = build_definitions(lake=str(lake.root), media=str(media), workers=0).resolve_job_def("inventory")
    told = []
    for _ in range(2):
        with dg.DagsterInstance.ephemeral() as instance:
            result = job.execute_in_process(instance=instance)
        told += [
            (check.passed, check.description)
            for check in result.get_asset_check_evaluations()
            if check.check_name == "every_channel_sounds"
        ]
        # As an earlier reader left it, before there were notes.
        before = lake.read("media_inventory").drop("note")
        lake.write("media_inventory", WHOLE_TABLE, before, {"reader": "2"})
    assert told == [(False, "music/sad/half.wav: 1 of its 2 channels is silent and left out")] * 2


def test_an_inventory_is_not_current_once_an_extra_that_reads_more_is_installed(
    tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings({"media": str(media), "lake": str(tmp_path / "lake")})
    with_all = _folder_digest(settings, "")
    assert with_all == _folder_digest(settings, "")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "pillow_heif" else find_spec(name)
    )
    assert _folder_digest(settings, "") != with_all
