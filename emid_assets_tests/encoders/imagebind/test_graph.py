"""The graph with the imagebind encoder: ImageBind's own classes at a small size, random weights."""

import functools
import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from emid_assets.definitions import build_definitions
from emid_assets.encoders.imagebind import encoder as imagebind
from emid_assets.store.lake import Lake
from emid_assets_tests.encoders.imagebind.small_imagebind import SMALL, write_small_checkpoint

STAGES = {
    "inventory": [None],
    "embed_music": ["sad", "joyful"],
    "embed_images": ["awe", "fear"],
    "align": ["sad", "joyful"],
    "release": [None],
    "train_adapter": ["bmf"],
    "study": [None],
    "evaluate": [None],
}


@pytest.mark.slow
def test_the_whole_graph_runs_and_a_second_time_without_encoding(
    tmp_path: Path, sample_media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = tmp_path / "media"
    for kind, names in {
        "music/sad": ["17_K_chimes-they-fade.ogg", "18_K_10-farewell.ogg"],
        "music/joyful": ["15_J_upbeat.ogg"],
        "images/awe": ["awe_canyon4.jpg", "awe_nasa0.jpg", "awe_earthrise.jpg"],
        "images/fear": ["fear_fog2.jpg", "fear_badlands0.jpg"],
    }.items():
        (media / kind).mkdir(parents=True)
        for name in names:
            shutil.copy(sample_media / kind.split("/")[0] / name, media / kind)
    (media / "pairs.csv").write_text(
        "clip_id,image_id,rank\n"
        "sad/18_K_10-farewell.ogg,awe/awe_canyon4.jpg,1\nsad/18_K_10-farewell.ogg,fear/fear_fog2.jpg,2\n"
    )
    small = functools.partial(imagebind.load_imagebind, architecture=SMALL)
    monkeypatch.setattr(imagebind, "load_imagebind", small)
    definitions = build_definitions(
        encoder="imagebind",
        imagebind_checkpoint=str(write_small_checkpoint(tmp_path / "small.pth")),
        precision="float32",
        device="cpu",
        media=str(media),
        lake=str(tmp_path / "lake"),
        images_per_clip=2,
    )
    encoded: list[int] = []
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            count = 0
            for stage, keys in STAGES.items():
                for key in keys:
                    result = definitions.resolve_job_def(stage).execute_in_process(
                        instance=instance, partition_key=key
                    )
                    for event in result.get_asset_materialization_events():
                        metadata = event.materialization.metadata
                        # Without prediction, the assets that predict are empty and name no network.
                        if "encoded" in metadata and metadata["fingerprint"].value:
                            count += int(metadata["encoded"].value)  # type: ignore[arg-type]
                            assert str(metadata["fingerprint"].value).startswith("imagebind-")
                            assert "CC-BY-NC-SA 4.0" in str(metadata["encoder_licence"].value)
            encoded.append(count)
    assert encoded == [8, 0]
    lake = Lake(tmp_path / "lake")
    music = lake.read("music_embeddings")
    assert music["embedding"].to_numpy().shape == (3, SMALL.out_embed_dim)
    assert ((music["scale"] > 10) & (music["scale"] <= 20.001)).all()
    np.testing.assert_allclose(lake.read("image_embeddings")["scale"], 1, atol=1e-6)
    assert lake.read("fused_pairs").height == 6
    assert lake.read("adapted_embeddings")["item_id"].len() == 8
    report = {(row[1], row[2]): row[3] for row in lake.read("evaluation_report").iter_rows()}
    assert report["published", "comparable"] == report["published", "among_candidates"] == 2
    assert report["candidate_minmax", "agree_at_alpha_0.60"] == report["published", "agree"]
    assert "EMIDI2ARetrieval/recall_at_1" in {metric for _, metric in report}
    assert (tmp_path / "lake" / "release" / "SHA256SUMS").is_file()
    assert "imagebind" in (tmp_path / "lake" / "report.html").read_text(encoding="utf-8")
