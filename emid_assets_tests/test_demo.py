"""The whole graph on real media: what a build leaves behind, and what the next one does again."""

import json
import shlex
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import filelock
import numpy as np
import polars as pl
import pytest
import soundfile
from PIL import Image

from emid_assets.affect.emotions import IMAGE_TAG_SPREAD, MUSIC_EMOTIONS
from emid_assets.definitions import definitions
from emid_assets.store.lake import Lake
from emid_assets.store.schemas import TABLES
from emid_assets_tests.conftest import Checkout
from emid_assets_tests.graph import stage_of_assets

EXPANDED = 5
"""Expanded clips of the sample: of six windows of its two recordings, one does not sound like its clip."""


@dataclass(frozen=True)
class Build(Checkout):
    """A build of the sample or of a few of its files, both recordings among them."""

    originals: int
    images: int
    emotions: int

    @property
    def clips(self) -> int:
        return self.originals + EXPANDED


@pytest.fixture(
    scope="session", params=["small_demo", pytest.param("demo", marks=pytest.mark.demo)], ids=["few", "all"]
)
def build(request: pytest.FixtureRequest) -> Build:
    """A build of six clips, and the demo itself: what holds for one holds for the other."""
    checkout = request.getfixturevalue(request.param)
    originals, images, emotions = {"small_demo": (6, 11, 3), "demo": (22, 27, 13)}[request.param]
    return Build(checkout.folder, originals, images, emotions)


def encoded_files(lake: Lake, before: Lake) -> int:
    """Files that were encoded for the partitions of a lake that are not those of the lake that it was."""
    tables = ("music_embeddings", "image_embeddings", "expansion_windows")
    were = {path.name for table in tables for path in before.current_files(table).values()}
    versions = [version for table in tables for version in lake.versions(table)]
    return sum(int(str(version.metadata["encoded"])) for version in versions if version.path.name not in were)


def test_every_asset_is_stored_and_declared_as_it_is(build: Build) -> None:
    lake = Lake(build.demo_lake)
    for name in stage_of_assets(definitions):
        frame = lake.read(name)
        assert not TABLES[name].differences(frame), name
        empty = (
            "rejected_media", "published_pairs", "published_agreement", "study_answers", "study_results",
        )  # fmt: skip
        prediction = (
            "music_tags", "image_features", "image_encoder_features", "image_text_features",
            "image_emotion_head", "music_emotion_head", "predicted_emotion",
        )  # fmt: skip
        assert name in empty + prediction or frame.height, name


def test_every_clip_of_the_sample_original_or_expanded_has_three_pairs(build: Build) -> None:
    lake = Lake(build.demo_lake)
    pairs, originals, expanded = (
        lake.read(name) for name in ("fused_pairs", "music_clips", "expanded_clips")
    )
    assert (originals.height, expanded.height) == (build.originals, EXPANDED)
    assert pairs.group_by("clip_id").len()["len"].to_list() == [3] * build.clips
    assert set(pairs["clip_id"]) == {*originals["clip_id"], *expanded["clip_id"]}
    assert set(pairs["rank"]) == {1, 2, 3}


def test_the_report_counts_the_clips_before_and_after_expansion(build: Build) -> None:
    figures = Lake(build.demo_lake).read("evaluation_report").filter(pl.col("section") == "counts")
    of = {(system, metric): value for _, system, metric, value in figures.rows()}
    assert (of["original_clips", "all"], of["music_clips", "all"]) == (build.originals, build.clips)
    assert of["music_clips", "beautiful"] > of["original_clips", "beautiful"] == 2
    page = (build.demo_lake / "report.html").read_text(encoding="utf-8")
    assert "Clips before and after expansion" in page


def test_an_expanded_clip_is_in_the_part_of_its_source(build: Build) -> None:
    lake = Lake(build.demo_lake)
    adapted = lake.read("adapted_embeddings", ["bmf"]).filter(pl.col("kind") == "music")
    part = dict(adapted.select("item_id", "split").iter_rows())
    for clip, source in lake.read("expanded_clips").select("clip_id", "source_clip_id").rows():
        assert part[clip] == part[source] is not None


def test_the_stored_pairs_are_the_methods_by_brute_force_in_float64(build: Build) -> None:
    """The formulas of the default method written out, from the stored embeddings and manifests alone."""
    lake = Lake(build.demo_lake)
    originals = lake.read("music_embeddings").join(lake.read("music_clips"), on="clip_id").sort("clip_id")
    columns = ["clip_id", "emotion", "valence", "arousal", "embedding", "scale"]
    music = pl.concat([originals.select(columns), lake.read("expanded_clips").select(columns)]).sort(
        "clip_id"
    )
    images = lake.read("image_embeddings").join(lake.read("images"), on="image_id").sort("image_id")
    X = music["embedding"].to_numpy().astype(np.float64) * music["scale"].to_numpy()[:, None]
    Y = images["embedding"].to_numpy().astype(np.float64) * images["scale"].to_numpy()[:, None]
    logits = X @ Y.T
    S = np.exp(logits - logits.max(axis=1, keepdims=True))
    S /= S.sum(axis=1, keepdims=True)

    def on_plane(
        frame: pl.DataFrame, population: pl.DataFrame, label: str, sd: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Points and variances where a standard deviation of the population is .4 long, within [-1, 1]²."""
        each = population.with_columns(weight=1 / pl.len().over(label))
        weights, va = each["weight"].to_numpy(), each.select("valence", "arousal").to_numpy()
        centre = np.average(va, axis=0, weights=weights)
        unit = 2.5 * np.sqrt(np.average((va - centre) ** 2, axis=0, weights=weights))
        points = (frame.select("valence", "arousal").to_numpy() - centre) / unit
        return points / np.maximum(np.abs(points).max(axis=1, keepdims=True), 1), (sd / unit) ** 2

    spread_of = {emotion.key: (emotion.valence_spread, emotion.arousal_spread) for emotion in MUSIC_EMOTIONS}
    u, of_u = on_plane(music, originals, "emotion", np.array([spread_of[key] for key in music["emotion"]]))
    v, of_v = on_plane(images, images, "tag", np.full((len(images), 2), IMAGE_TAG_SPREAD))
    variance = 0.3**2 + 0.02 * (of_u[:, None] + of_v)
    E = (0.3 / np.sqrt(variance) * np.exp(-((u[:, None] - v) ** 2) / (2 * variance))).prod(axis=2)
    low, high = S.min(axis=1, keepdims=True), S.max(axis=1, keepdims=True)
    T = 0.05 * (S - low) / (high - low) + 0.95 * E
    expected = np.sort(T, axis=1)[:, ::-1][:, :3]
    pairs = lake.read("fused_pairs").sort("clip_id", "rank")
    np.testing.assert_allclose(pairs["fused_score"].to_numpy().reshape(-1, 3), expected, atol=1e-5)
    column = {image: index for index, image in enumerate(images["image_id"])}
    row = {clip: index for index, clip in enumerate(music["clip_id"])}
    for clip, image, score in pairs.select("clip_id", "image_id", "fused_score").rows():
        assert abs(T[row[clip], column[image]] - score) < 1e-5


def test_a_second_demo_builds_nothing(demo: Checkout) -> None:
    before = Lake(demo.demo_lake).current_files("fused_pairs")
    assert "Everything is current: " in demo.run("make demo")
    assert Lake(demo.demo_lake).current_files("fused_pairs") == before


def test_everything_built_again_gives_the_same_pairs_and_encodes_nothing(demo: Checkout) -> None:
    folder = demo.folder / "again"
    shutil.copytree(demo.demo_lake, folder)
    demo.run(f".venv/bin/emid build --all --lake {folder}")
    first, again = Lake(demo.demo_lake), Lake(folder)
    assert encoded_files(again, first) == 0
    for name in ("fused_pairs", "similarity_matrix", "adapted_embeddings"):
        assert again.current_files(name).keys() == first.current_files(name).keys()
        assert not {path.name for path in again.current_files(name).values()} & {
            path.name for path in first.current_files(name).values()
        }
        assert again.read(name).equals(first.read(name)), name
    assert (folder / "report.html").read_bytes() == (demo.demo_lake / "report.html").read_bytes()


def test_a_new_image_in_the_users_own_folder_is_the_only_file_encoded(
    demo: Checkout, sample_media: Path
) -> None:
    media = demo.folder / "my-media"
    shutil.copytree(sample_media, media)
    (media / "images" / "awe").mkdir()
    Image.effect_mandelbrot((320, 240), (-2, -1.2, 1, 1.2), 60).save(media / "images" / "awe" / "new one.png")
    (media / "music" / "sad").mkdir()
    wave = 0.1 * np.sin(np.arange(40_000) / 10)
    soundfile.write(media / "music" / "sad" / "cancels out.wav", np.stack([wave, -wave], axis=1), 8000)
    lake_folder = demo.folder / "my-lake"
    shutil.copytree(
        demo.demo_lake, lake_folder, ignore=shutil.ignore_patterns("dagster", "lake.duckdb*", ".catalogues")
    )
    demo.run(
        f".venv/bin/emid build --media my-media --lake {lake_folder} "
        "--images-per-clip 2 --epochs 3 --alpha 0.5"
    )
    lake = Lake(lake_folder)
    assert encoded_files(lake, Lake(demo.demo_lake)) == 1
    assert "awe/new one.png" in lake.read("images", ["awe"])["image_id"]
    assert "awe/new one.png" in lake.read("similarity_matrix")["image_id"]
    assert lake.read("fused_pairs").height == 2 * (22 + EXPANDED)
    assert lake.read("trained_adapter")["history"].list.len().unique().to_list() == [3]
    # Two channels that cancel out are silence to the encoder: rejected late, and told of on the report.
    assert "sad/cancels out.wav" in lake.read("rejected_media")["item_id"]
    assert "cancels out.wav" in (lake_folder / "report.html").read_text(encoding="utf-8")


def test_the_builds_runs_and_checks_are_on_the_instance_of_the_web_ui(build: Build) -> None:
    with dg.DagsterInstance.from_config(str(build.demo_lake / "dagster")) as instance:
        runs = instance.get_runs()
        assert {run.job_name for run in runs} == {
            "inventory", "embed_music", "embed_images", "align", "release", "train_adapter", "study",
            "evaluate", "health",
        }  # fmt: skip
        assert all(run.is_success for run in runs)
        partitions = instance.get_materialized_partitions(dg.AssetKey("fused_pairs"))
        assert len(partitions) == build.emotions


def test_a_wrong_setting_ends_the_build_with_one_line(small_demo: Checkout) -> None:
    finished = subprocess.run(
        small_demo.as_run(".venv/bin/emid build --alpha 1.5"),
        shell=True,
        cwd=small_demo.folder,
        env=small_demo.environment,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2
    assert finished.stderr.strip() == "Error: alpha = '1.5': must be auto or 0.0 to 1.0"


def test_a_query_by_a_file_ranks_as_the_stored_embeddings_do(demo: Checkout, tmp_path: Path) -> None:
    """A clip of the test split has no factors of its own, so its file must find what its stored row finds."""
    lake = Lake(demo.demo_lake)
    adapted = lake.read("adapted_embeddings", ["bmf"])
    whole = lake.read("music_clips").filter(pl.col("content_hash").str.len_chars() == 64)
    of_test = adapted.filter((pl.col("kind") == "music") & (pl.col("split") == "test"))
    clip = of_test.filter(pl.col("item_id").is_in(whole["clip_id"])).row(0, named=True)
    images = adapted.filter(pl.col("kind") == "image")
    scores = images["embedding"].to_numpy() @ np.array(clip["embedding"], dtype=np.float32)
    expected = images["item_id"].gather(np.argsort(-scores, kind="stable")[:5]).to_list()
    file = demo.folder / "emid_assets" / "sample" / "music" / clip["item_id"]
    page = tmp_path / "found.html"
    answer = json.loads(
        demo.run(
            f".venv/bin/emid query music '{file}' --network bmf --top 5 --json --html '{page}' 2>/dev/null"
        )
    )
    assert [row["item_id"] for row in answer] == expected
    assert [row["rank"] for row in answer] == [1, 2, 3, 4, 5]
    assert all(0 <= row["emotional_similarity"] <= 1 and 0 < row["semantic_similarity"] < 1 for row in answer)
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/jpeg") == 5
    assert html.count("data:audio/mpeg") == 1


def test_a_query_by_an_image_finds_clips_and_a_text_file_is_refused(build: Build, tmp_path: Path) -> None:
    image = build.folder / "emid_assets" / "sample" / "images" / "awe_nasa0.jpg"
    lake, page = Lake(build.demo_lake), tmp_path / "found.html"
    found = json.loads(
        build.run(
            f".venv/bin/emid query image '{image}' --network bmf --top 28 --json --html {page} 2>/dev/null"
        )
    )
    clips = {*lake.read("music_clips")["clip_id"], *lake.read("expanded_clips")["clip_id"]}
    assert {row["item_id"] for row in found} == clips
    assert page.read_text(encoding="utf-8").count("data:audio/mpeg") == len(clips) == build.clips
    (tmp_path / "no music.mp3").write_text("words")
    finished = subprocess.run(
        build.as_run(f".venv/bin/emid query music '{tmp_path}/no music.mp3' --network bmf"),
        shell=True, cwd=build.folder, env=build.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert finished.returncode == 1
    assert "no music.mp3" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_sweep_finds_the_builds_own_point(build: Build, tmp_path: Path) -> None:
    table = tmp_path / "sweep.csv"
    build.run(f".venv/bin/emid sweep --alphas 0.05,1 --pairs 3 --counts {build.images} --csv {table}")
    points = pl.read_csv(table).filter(
        (pl.col("alpha") == 0.05) & (pl.col("rescaling") == "candidate_minmax")
    )
    lake = Lake(build.demo_lake)
    semantic = lake.read("similarity_matrix").filter(pl.col("rank") <= 3)
    kept = lake.read("fused_pairs").join(semantic, on=["clip_id", "image_id"], how="semi")
    same = kept.height / (3 * build.clips)
    assert points["same_as_semantic"].to_list() == [pytest.approx(same)]


def test_a_folder_without_images_ends_the_build_before_anything_is_encoded(
    small_demo: Checkout, tmp_path: Path, sample_media: Path
) -> None:
    shutil.copytree(sample_media / "music", tmp_path / "music" / "sad")
    finished = subprocess.run(
        small_demo.as_run(f".venv/bin/emid build --media {tmp_path} --lake {tmp_path}/lake"),
        shell=True, cwd=small_demo.folder, env=small_demo.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert finished.returncode == 1
    assert f"nothing usable in {tmp_path}/images" in finished.stderr.replace("\n", "")
    assert not Lake(tmp_path / "lake").partitions("music_embeddings")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_build_at_once(small_demo: Checkout, tmp_path: Path, number: int) -> None:
    process = subprocess.Popen(
        shlex.split(small_demo.as_run(f".venv/bin/emid build --lake {tmp_path}")),
        cwd=small_demo.folder, env=small_demo.environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline().startswith("inventory: 1/1")
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(60) == 130, rest
    assert "run the same command again to resume" in rest
    assert "embed_images" not in rest


def test_a_second_build_of_a_lake_is_refused_while_one_is_under_way(
    small_demo: Checkout, tmp_path: Path
) -> None:
    with filelock.FileLock(tmp_path / ".build.lock"):
        finished = subprocess.run(
            small_demo.as_run(f".venv/bin/emid build --lake {tmp_path}"),
            shell=True, cwd=small_demo.folder, env=small_demo.environment,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert finished.returncode == 1
    assert "another build into" in finished.stderr
    assert not Lake(tmp_path).partitions("media_inventory")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("build --lake pyproject.toml", "lake = "),
        ("build --lake 'what?'", "lake = "),
        ("build --media nowhere", "there is no such folder"),
        ("build --encoder imagebind --imagebind-checkpoint nowhere.pth", "nowhere.pth"),
        ("ui --port 99999", "99999"),
    ],
)
def test_what_cannot_work_ends_with_one_clear_line(
    small_demo: Checkout, arguments: str, message: str
) -> None:
    finished = subprocess.run(
        small_demo.as_run(f".venv/bin/emid {arguments}"),
        shell=True, cwd=small_demo.folder, env=small_demo.environment,
            capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert finished.returncode in (1, 2)
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
