"""Every benchmark runs at a small size, and writes rows of the form that tools read."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from benchmarks.emid_size import write_emid
from emid_assets.orchestration.stages import STAGES
from emid_assets.release.emid_import import import_emid
from emid_assets.release.emid_source import csv_pieces
from emid_assets_tests.conftest import REPOSITORY, clean_environment
from emid_assets_tests.synthetic_emid import EXPANDED, ORIGINALS

SMALL = {
    "matching": (
        ["--sizes", "64x400", "--rounds", "1", "--skip-extras"],
        {"size", "ratio", "extra_mb", "ids_equal"},
    ),
    "embedding": (["--sizes", "4", "--batch", "2", "--rounds", "1", "--parts", "stage"], set()),
    "build": (
        ["--sizes", "20", "--cases", "first"],
        {"size", "cpu_seconds", "overhead_seconds", "wall_seconds", "runs", "encoded"},
    ),
    "growth": (["--shrink", "40", "--rounds", "1"], {"size", "seconds", "mb"}),
    "scaling": (["--parts", "catalogue,model", "--sizes", "300,600"], {"size"}),
    "adapter": (
        [
            "--shrink",
            "30",
            "--epochs",
            "1",
            "--seeds",
            "2",
            "--networks",
            "bmf,distilled",
            "--splits",
            "warm,cold",
        ],
        {"split", "ndcg_at_10", "hit_at_10", "seconds_per_epoch"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_writes_rows_with_names_of_ours(name: str, tmp_path: Path) -> None:
    arguments, keys = SMALL[name]
    target = tmp_path / "rows.json"
    subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", "--ours", *arguments, "--json", str(target)],
        cwd=REPOSITORY, env=clean_environment(), check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    rows = json.loads(target.read_text())["rows"]
    ours = [row for row in rows if row["name"].startswith("ours")]
    assert ours
    for row in ours:
        assert keys <= row.keys()


def test_the_benchmark_of_emotion_runs_on_rated_images(shared_data: Path, tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    subprocess.run(
        [sys.executable, "benchmarks/emotion.py", "--ours", "--seeds", "1", "--shrink", "10",
         "--images", str(shared_data / "oasis_dev"), "--ratings", str(shared_data / "oasis_dev.csv"),
         "--json", str(target)],
        cwd=REPOSITORY, env=clean_environment(), check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    rows = json.loads(target.read_text())["rows"]
    assert [row["name"] for row in rows] == ["ours", "ours_text"]
    for row in rows:
        assert row["arousal_r"] > 0.2  # so few images show that it learns, and nothing of how well


def rows_of_truth(
    shared_data: Path, target: Path, *arguments: str
) -> dict[tuple[str, str], dict[str, float]]:
    subprocess.run(
        [sys.executable, "benchmarks/truth.py", "--data", str(shared_data), *arguments,
         "--json", str(target)],
        cwd=REPOSITORY, env=clean_environment(), check=True, capture_output=True, timeout=900,
    )  # fmt: skip
    return {(row["case"], row["name"]): row for row in json.loads(target.read_text())["rows"]}


@pytest.mark.slow
def test_the_benchmark_of_truth_stands_between_chance_and_the_nearest_images(
    shared_data: Path, tmp_path: Path
) -> None:
    rows = rows_of_truth(shared_data, tmp_path / "rows.json", "--seeds", "1", "--shrink", "5")
    for case in ("half", "none"):
        nearest, chance = rows[case, "oracle"], rows[case, "random"]
        for name in ("ours-paper", "ours-calibrated"):
            for distance in ("distance_at_3", "distance_at_10"):
                assert nearest[distance] < rows[case, name][distance] < chance[distance]
            assert 0 < rows[case, name]["coverage"] <= 1
        assert rows[case, "ours-calibrated"]["ratio"] < 1
    assert {rows["none", name]["share_rated"] for name in ("ours-paper", "ours-calibrated", "oracle")} == {0}


def test_the_benchmark_of_truth_says_that_its_data_is_absent(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/truth.py", "--data", str(tmp_path)],
        cwd=REPOSITORY, env=clean_environment(), check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"{tmp_path} has no music_ratings_dev.csv" in done.stderr


@pytest.mark.heavy
def test_pairs_of_unlabelled_media_are_as_near_to_each_other_as_promised(
    shared_data: Path, tmp_path: Path
) -> None:
    rows = rows_of_truth(shared_data, tmp_path / "rows.json", "--ours")
    assert rows["half", "ours-calibrated"]["ratio"] <= 0.80
    assert rows["none", "ours-calibrated"]["ratio"] <= 0.88


@pytest.mark.heavy
def test_the_head_reaches_its_target_on_all_rated_images(shared_data: Path, tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    subprocess.run(
        [sys.executable, "benchmarks/emotion.py", "--json", str(target),
         "--images", str(shared_data / "oasis_dev"), "--ratings", str(shared_data / "oasis_dev.csv")],
        cwd=REPOSITORY, env=clean_environment(), check=True, capture_output=True, timeout=1800,
    )  # fmt: skip
    ours, with_text, ridge = json.loads(target.read_text())["rows"]
    for axis, reached in (("valence", 0.74), ("arousal", 0.72)):
        assert with_text[f"{axis}_r"] >= reached
        assert ours[f"{axis}_r"] >= 0.60
        assert ours[f"{axis}_r"] > ridge[f"{axis}_r"]
        assert abs(ours[f"{axis}_within_90"] - 0.90) < 0.03


def test_the_folder_of_emids_size_has_its_counts_and_imports_without_a_fault(tmp_path: Path) -> None:
    table = write_emid(tmp_path / "emid", scale=0.002)
    summary = import_emid(csv_pieces(table, tmp_path / "emid"), tmp_path / "media")
    originals, expanded = (
        sum(max(1, round(count * 0.002)) for count in counts.values()) for counts in (ORIGINALS, EXPANDED)
    )
    assert (summary.clips, summary.images, summary.findings) == (expanded, 8, [])
    clips = pl.read_csv(tmp_path / "media" / "music.csv", infer_schema=False)
    assert clips["is_original_clip"].eq("true").sum() == originals


@pytest.mark.heavy
def test_the_benchmark_of_emids_size_measures_every_stage_and_the_page(tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    subprocess.run(
        [sys.executable, "benchmarks/emid_size.py", "--scale", "0.01", "--settings", '{"epochs": 1}',
         "--json", str(target)],
        cwd=REPOSITORY, env=clean_environment(), check=True, capture_output=True, timeout=900,
    )  # fmt: skip
    rows = {row["name"]: row for row in json.loads(target.read_text())["rows"]}
    for stage in ("import", *STAGES, "all", "one clip more: all"):
        assert rows[f"ours {stage}"]["cpu_seconds"] > 0
    assert rows["ours filter pairs.html"]["seconds"] > 0
    assert rows["ours size of release"]["bytes"] > rows["ours size of the media"]["bytes"] / 2
