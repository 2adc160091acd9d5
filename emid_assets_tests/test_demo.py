"""The whole graph on real media: what a build leaves behind, and what the next one does again."""

import shutil
import subprocess
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
from PIL import Image

from emid_assets.store.duckdb_store import Lake
from emid_assets.store.schemas import TABLES
from emid_assets_tests.conftest import Checkout


def encoded_files(lake: Lake) -> int:
    """Files that the latest run of each embedding partition encoded."""
    versions = [*lake.versions("music_embeddings"), *lake.versions("image_embeddings")]
    return sum(int(str(version.metadata["encoded"])) for version in versions)


def test_every_asset_is_stored_and_declared_as_it_is(demo: Checkout) -> None:
    lake = Lake(demo.demo_lake)
    for name, schema in TABLES.items():
        frame = lake.read(name)
        assert not schema.differences(frame), name
        assert name == "rejected_media" or frame.height, name


def test_every_clip_of_the_sample_has_three_pairs(demo: Checkout) -> None:
    pairs = Lake(demo.demo_lake).read("fused_pairs")
    assert pairs.height == 66
    assert pairs.group_by("clip_id").len()["len"].to_list() == [3] * 22
    assert set(pairs["rank"]) == {1, 2, 3}


def test_the_stored_pairs_are_the_methods_by_brute_force_in_float64(demo: Checkout) -> None:
    """METHOD's formulas written out once more, from the stored embeddings and manifests alone."""
    lake = Lake(demo.demo_lake)
    music = lake.read("music_embeddings").join(lake.read("music_clips"), on="clip_id").sort("clip_id")
    images = lake.read("image_embeddings").join(lake.read("images"), on="image_id").sort("image_id")
    X = music["embedding"].to_numpy().astype(np.float64) * music["scale"].to_numpy()[:, None]
    Y = images["embedding"].to_numpy().astype(np.float64) * images["scale"].to_numpy()[:, None]
    logits = X @ Y.T
    S = np.exp(logits - logits.max(axis=1, keepdims=True))
    S /= S.sum(axis=1, keepdims=True)

    def standardized(frame: pl.DataFrame, label: str) -> np.ndarray:
        counts = frame[label].value_counts().rows_by_key(label, unique=True)
        weights = np.array(
            [
                1 / counts[value][0] if isinstance(counts[value], tuple) else 1 / counts[value]
                for value in frame[label]
            ]
        )
        va = frame.select("valence", "arousal").to_numpy()
        centre = np.average(va, axis=0, weights=weights)
        spread = np.sqrt(np.average((va - centre) ** 2, axis=0, weights=weights))
        return (va - centre) / spread

    u, v = standardized(music, "emotion"), standardized(images, "tag")
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    E = (1 + u @ v.T) / 2
    low, high = S.min(axis=1, keepdims=True), S.max(axis=1, keepdims=True)
    T = 0.6 * (S - low) / (high - low) + 0.4 * E
    expected = np.sort(T, axis=1)[:, ::-1][:, :3]
    pairs = lake.read("fused_pairs").sort("clip_id", "rank")
    np.testing.assert_allclose(pairs["fused_score"].to_numpy().reshape(-1, 3), expected, atol=1e-5)
    column = {image: index for index, image in enumerate(images["image_id"])}
    row = {clip: index for index, clip in enumerate(music["clip_id"])}
    for clip, image, score in pairs.select("clip_id", "image_id", "fused_score").rows():
        assert abs(T[row[clip], column[image]] - score) < 1e-5


def test_a_second_demo_gives_the_same_pairs_and_encodes_nothing(demo: Checkout) -> None:
    lake = Lake(demo.demo_lake)
    before = {name: lake.read(name) for name in ("fused_pairs", "similarity_matrix", "adapted_embeddings")}
    report = (demo.demo_lake / "report.html").read_bytes()
    demo.run("make demo")
    assert encoded_files(lake) == 0
    for name, frame in before.items():
        assert lake.read(name).equals(frame), name
    assert (demo.demo_lake / "report.html").read_bytes() == report


def test_a_new_image_in_the_users_own_folder_is_the_only_file_encoded(
    demo: Checkout, sample_media: Path
) -> None:
    media = demo.folder / "my-media"
    shutil.copytree(sample_media, media)
    (media / "images" / "awe").mkdir()
    Image.effect_mandelbrot((320, 240), (-2, -1.2, 1, 1.2), 60).save(media / "images" / "awe" / "new one.png")
    lake_folder = demo.folder / "my-lake"
    shutil.copytree(
        demo.demo_lake, lake_folder, ignore=shutil.ignore_patterns("dagster", "lake.duckdb*", ".catalogues")
    )
    demo.run(f".venv/bin/emid build --media my-media --lake {lake_folder}")
    lake = Lake(lake_folder)
    assert encoded_files(lake) == 1
    assert "awe/new one.png" in lake.read("images", ["awe"])["image_id"]
    assert "awe/new one.png" in lake.read("similarity_matrix")["image_id"]


def test_the_builds_runs_and_checks_are_on_the_instance_of_the_web_ui(demo: Checkout) -> None:
    with dg.DagsterInstance.from_config(str(demo.demo_lake / "dagster")) as instance:
        runs = instance.get_runs()
        assert {run.job_name for run in runs} == {
            "inventory", "embed_music", "embed_images", "align", "train_adapter", "evaluate",
        }  # fmt: skip
        assert all(run.is_success for run in runs)
        partitions = instance.get_materialized_partitions(dg.AssetKey("fused_pairs"))
        assert len(partitions) == 13


def test_a_wrong_setting_ends_the_build_with_one_line(demo: Checkout) -> None:
    finished = subprocess.run(
        demo.as_run(".venv/bin/emid build --alpha 1.5"),
        shell=True,
        cwd=demo.folder,
        env=demo.environment,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 1
    assert finished.stderr.strip() == "Error: alpha = '1.5': must be 0.0 to 1.0"
