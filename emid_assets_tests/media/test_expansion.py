"""Expanded clips: which windows there are, which join, and what they take over, against plain loops."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile

from emid_assets.media.expansion import (
    CHOICE_COLUMNS,
    NOTHING_JOINS,
    ExpansionError,
    all_clips,
    all_music_embeddings,
    choose_windows,
    counts_table,
    cut_windows,
    expanded_frame,
    expansion_counts,
    with_chosen,
    with_nearest_source,
)
from emid_assets.media.identity import CHANGED
from emid_assets.store.files import sha256_of
from emid_assets.store.schemas import EXPANDED_CLIPS, EXPANSION_WINDOWS, MUSIC_CLIPS, MUSIC_EMBEDDINGS

WINDOW_S, HOP_S = 5.0, 2.5


def clips(*rows: dict[str, Any]) -> pl.DataFrame:
    schema = MUSIC_CLIPS.empty().schema
    defaults = {"is_original_clip": True, "emotion": "sad", "genre": "K", "valence": 5.0, "arousal": 4.0}
    filled = []
    for row in rows:
        place = f"#t={row['start_s']}+{row['duration_s']}" if row.get("duration_s", 0) else ""
        row = {**defaults, "source_id": row["clip_id"], "content_hash": row["file"] + place, **row}
        filled.append({name: row.get(name) for name in schema})
    return pl.DataFrame(filled, schema=schema)


def clip(name: str, file: str, start_s: float, duration_s: float, **more: Any) -> dict[str, Any]:
    return {"clip_id": name, "file": file, "start_s": start_s, "duration_s": duration_s, **more}


def write_silence(folder: Path, name: str, seconds: float, rate: int = 1000) -> None:
    soundfile.write(folder / name, np.zeros(round(seconds * rate)), rate)


def test_windows_lie_on_the_hops_within_the_file_and_overlap_no_clip_of_it(tmp_path: Path) -> None:
    write_silence(tmp_path, "a.wav", 31.0)
    manifest = clips(clip("one", "a.wav", 4.0, 6.0), clip("two", "a.wav", 18.5, 4.0, is_original_clip=False))
    windows, unreadable = cut_windows(manifest, tmp_path, WINDOW_S, HOP_S)
    expected = [
        start
        for start in np.arange(0, 31 - WINDOW_S + 1e-9, HOP_S)
        if not any(start < a + length and a < start + WINDOW_S for a, length in ((4.0, 6.0), (18.5, 4.0)))
    ]
    assert windows["start_s"].to_list() == expected == [10.0, 12.5, 22.5, 25.0]
    assert windows["content_hash"].to_list() == [f"a.wav#t={start}+5.0" for start in expected]
    assert windows["clip_id"].n_unique() == 4
    assert unreadable == []


def test_a_clip_that_is_its_whole_file_has_nothing_to_expand_and_its_file_is_not_opened(
    tmp_path: Path,
) -> None:
    whole = clips({"clip_id": "whole", "file": "no such file.wav", "start_s": 0.0, "content_hash": "digest"})
    windows, unreadable = cut_windows(whole, tmp_path, WINDOW_S, HOP_S)
    assert (windows.height, unreadable) == (0, [])


def test_a_recording_that_was_replaced_after_the_inventory_gives_no_window(tmp_path: Path) -> None:
    write_silence(tmp_path, "a.wav", 31.0)
    known = f"{sha256_of(tmp_path / 'a.wav')}#t=4.0+6.0"
    manifest = clips(clip("one", "a.wav", 4.0, 6.0, content_hash=known))
    assert cut_windows(manifest, tmp_path, WINDOW_S, HOP_S)[0].height == 7
    write_silence(tmp_path, "a.wav", 21.0)
    windows, unreadable = cut_windows(manifest, tmp_path, WINDOW_S, HOP_S)
    assert (windows.height, unreadable) == (0, [("a.wav", CHANGED)])


def test_a_recording_that_cannot_be_read_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    windows, unreadable = cut_windows(clips(clip("one", "bad.wav", 0.0, 2.0)), tmp_path, WINDOW_S, HOP_S)
    assert windows.is_empty()
    assert [file for file, _ in unreadable] == ["bad.wav"]


def embeddings(ids: list[str], vectors: np.ndarray) -> pl.DataFrame:
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return pl.DataFrame(
        {
            "clip_id": ids,
            "content_hash": ids,
            "embedding": pl.Series(units, dtype=pl.Array(pl.Float32, units.shape[1])),
            "scale": pl.Series([20.0] * len(ids), dtype=pl.Float32),
        },
        schema=MUSIC_EMBEDDINGS.empty(units.shape[1]).schema,
    )


def windows_of(files: list[str], starts: list[float]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "clip_id": [f"{file}#t={start}+5.0" for file, start in zip(files, starts, strict=True)],
            "file": files,
            "start_s": starts,
            "duration_s": [WINDOW_S] * len(files),
            "content_hash": [f"{file}#t={start}+5.0" for file, start in zip(files, starts, strict=True)],
        }
    )


def test_the_nearest_source_is_that_of_a_loop_in_float64() -> None:
    rng = np.random.default_rng(0)
    manifest = clips(
        clip("b", "1.wav", 0.0, 2.0), clip("a", "1.wav", 2.0, 2.0), clip("c", "2.wav", 0.0, 2.0),
        clip("an expanded one", "1.wav", 4.0, 1.0, is_original_clip=False),
    )  # fmt: skip
    of_clips = embeddings(["c", "b", "a", "an expanded one"], rng.standard_normal((4, 8)))
    windows = windows_of(["1.wav"] * 30 + ["2.wav"] * 5, [10.0 + place for place in range(35)])
    embedded = embeddings(windows["clip_id"].to_list(), rng.standard_normal((35, 8)))
    without_third = embedded.filter(pl.col("clip_id") != windows["clip_id"][2])
    found = EXPANSION_WINDOWS.check(with_nearest_source(windows, without_third, manifest, of_clips))
    assert found["clip_id"].to_list() == [
        name for name in windows["clip_id"] if name != windows["clip_id"][2]
    ]
    vector = {name: np.array(row, np.float64) for name, row in of_clips.select("clip_id", "embedding").rows()}
    for name, file, source, cosine, row in found.select(
        "clip_id", "file", "source_clip_id", "cosine", "embedding"
    ).rows():
        cosines = {
            other: float(np.array(row, np.float64) @ vector[other])
            for other in (["a", "b"] if file == "1.wav" else ["c"])
        }
        assert source == max(cosines, key=lambda other: cosines[other]), name
        assert cosine == pytest.approx(cosines[source], abs=1e-12)


def test_of_equally_near_sources_the_first_by_id_counts() -> None:
    manifest = clips(clip("b", "1.wav", 0.0, 2.0), clip("a", "1.wav", 2.0, 2.0))
    same = np.ones((2, 4))
    found = with_nearest_source(
        windows_of(["1.wav"], [10.0]), embeddings(["1.wav#t=10.0+5.0"], same[:1]), manifest,
        embeddings(["b", "a"], same),
    )  # fmt: skip
    assert found["source_clip_id"].to_list() == ["a"]


@pytest.fixture
def population() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Windows of many recordings, some claimed twice and some over other clips; and the clips."""
    rng = np.random.default_rng(5)
    manifest, windows = [], []
    for number in range(40):
        file = f"{number:02}.ogg"
        emotion = ("sad", "calm", "joyful")[number % 3]
        manifest.append(clip(f"clip {number:02}", file, 10.0, 8.0, emotion=emotion))
        if number % 4 == 0:
            manifest.append(clip(f"second {number:02}", file, 40.0, 8.0, emotion="scary"))
        for start in np.arange(20.0, 60.0, HOP_S):
            claims = [f"clip {number:02}"] + [f"second {number:02}"] * (number % 4 == 0)
            for source in claims:
                windows.append(
                    (f"{file}#t={start}+5.0", float(start), WINDOW_S, f"{file}#t={start}+5.0", source,
                     float(np.round(rng.uniform(0, 1), 2)))
                )  # fmt: skip
    schema = {name: EXPANSION_WINDOWS.empty().schema[name] for name in CHOICE_COLUMNS}
    return pl.DataFrame(windows, schema=schema, orient="row"), clips(*manifest)


def chosen_by_loop(
    windows: pl.DataFrame, manifest: pl.DataFrame, threshold: float, per_source: int
) -> set[tuple[str, str]]:
    best: dict[str, tuple[float, str, str]] = {}
    for name, start, length, content, source, cosine in windows.rows():
        file = content.split("#")[0]
        places = manifest.filter(pl.col("file") == file).select("start_s", "duration_s").rows()
        if any(start < a + other and a < start + length for a, other in places):
            continue
        claim = (-cosine, source, name)
        best[content] = min(best.get(content, claim), claim)
    taken: dict[str, int] = {}
    chosen = set()
    for cosine, source, name in sorted(best.values()):
        taken[source] = taken.get(source, 0) + 1
        if taken[source] <= per_source and -cosine >= threshold:
            chosen.add((name, source))
    return chosen


@pytest.mark.parametrize(("threshold", "per_source"), [(0.5, 20), (0.0, 3), (0.9, 1), (-1.0, 100), (0.5, 0)])
def test_the_windows_that_join_are_those_of_a_loop(
    population: tuple[pl.DataFrame, pl.DataFrame], threshold: float, per_source: int
) -> None:
    windows, manifest = population
    choice = choose_windows(windows, manifest, threshold=threshold, per_source=per_source, target=0)
    assert set(choice.chosen.rows()) == chosen_by_loop(windows, manifest, threshold, per_source)
    assert choice.reached == manifest.height + choice.chosen.height
    assert choice.chosen["clip_id"].is_unique().all()


@pytest.mark.parametrize("target", [60, 150, 300])
def test_a_target_is_reached_by_the_highest_threshold_that_reaches_it(
    population: tuple[pl.DataFrame, pl.DataFrame], target: int
) -> None:
    windows, manifest = population
    choice = choose_windows(windows, manifest, threshold=2.0, per_source=20, target=target)
    assert (choice.reached >= target, choice.missing) == (True, 0)
    given = choose_windows(windows, manifest, threshold=choice.threshold, per_source=20, target=0)
    assert given.chosen.equals(choice.chosen)
    above = choose_windows(
        windows, manifest, threshold=np.nextafter(choice.threshold, 2), per_source=20, target=0
    )
    assert above.reached < target


def test_a_target_that_is_out_of_reach_says_how_much_lacks_and_takes_all_that_can_join(
    population: tuple[pl.DataFrame, pl.DataFrame],
) -> None:
    windows, manifest = population
    choice = choose_windows(windows, manifest, threshold=0.9, per_source=5, target=10_738)
    everything = chosen_by_loop(windows, manifest, -1.0, 5)
    assert set(choice.chosen.rows()) == everything
    assert choice.missing == 10_738 - manifest.height - len(everything)


def test_a_target_below_the_originals_adds_nothing(population: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    windows, manifest = population
    choice = choose_windows(windows, manifest, threshold=0.0, per_source=20, target=manifest.height)
    assert (choice.chosen.height, choice.reached) == (0, manifest.height)
    assert choice.threshold == NOTHING_JOINS > 1


def test_the_order_of_partitions_and_rows_changes_nothing(
    population: tuple[pl.DataFrame, pl.DataFrame],
) -> None:
    windows, manifest = population
    first = choose_windows(windows, manifest, threshold=0.0, per_source=4, target=120)
    shuffled = (
        windows.sample(fraction=1.0, shuffle=True, seed=1),
        manifest.sample(fraction=1.0, shuffle=True, seed=2),
    )
    again = choose_windows(*shuffled, threshold=0.0, per_source=4, target=120)
    assert again.chosen.equals(first.chosen)
    assert again.threshold == first.threshold


def window_row(name: str, file: str, start_s: float, source: str) -> pl.DataFrame:
    rows = windows_of([file], [start_s]).with_columns(
        clip_id=pl.lit(name), source_clip_id=pl.lit(source), cosine=pl.lit(0.75)
    )
    vector = embeddings([name], np.ones((1, 4))).select("embedding", "scale")
    return EXPANSION_WINDOWS.check(pl.concat([rows, vector], how="horizontal"))


def test_an_expanded_clip_has_its_sources_labels_and_its_own_place() -> None:
    source = clip(
        "one", "a.ogg", 10.0, 8.0, source_id="the recording", sample_rate=44_100, channels=2,
        va_source="ratings", label_source="survey", licence="CC0", author="Somebody", rating_valence=6.0,
        feelings=[{"feeling": "Dreamy", "percent": 40.0}],
    )  # fmt: skip
    manifest = clips(source)
    expanded = EXPANDED_CLIPS.check(expanded_frame(window_row("w", "a.ogg", 20.0, "one"), manifest))
    own = {"clip_id": "w", "start_s": 20.0, "duration_s": 5.0, "content_hash": "a.ogg#t=20.0+5.0"}
    row, labels = expanded.row(0, named=True), manifest.row(0, named=True)
    for name in MUSIC_CLIPS.columns:
        expected = own[name] if name in own else False if name == "is_original_clip" else labels[name]
        assert row[name] == expected, name
    assert (row["source_clip_id"], row["cosine"]) == ("one", 0.75)
    both = MUSIC_CLIPS.check(all_clips(manifest, expanded))
    assert both["source_id"].to_list() == ["the recording"] * 2
    vectors = all_music_embeddings(embeddings(["one"], np.ones((1, 4))), expanded)
    assert MUSIC_EMBEDDINGS.check(vectors)["clip_id"].to_list() == ["one", "w"]


def test_windows_and_clips_that_do_not_fit_each_other_are_named() -> None:
    window = window_row("w", "a.ogg", 20.0, "one")
    with pytest.raises(ExpansionError, match="'one' is gone: build expansion_windows again"):
        expanded_frame(window, clips(clip("two", "a.ogg", 0.0, 2.0)))
    with pytest.raises(ExpansionError, match="a clip has the id 'w'"):
        expanded_frame(window, clips(clip("one", "a.ogg", 0.0, 2.0), clip("w", "b.ogg", 0.0, 2.0)))
    with pytest.raises(ExpansionError, match="different encoders"):
        all_music_embeddings(
            embeddings(["one"], np.ones((1, 3))),
            expanded_frame(window, clips(clip("one", "a.ogg", 0.0, 2.0))),
        )


def test_counts_by_emotion_before_and_after_add_up(population: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    windows, manifest = population
    choice = choose_windows(windows, manifest, threshold=0.5, per_source=20, target=0)
    counts = expansion_counts(with_chosen(manifest, choice))
    assert counts.height == 13
    emotion_of = dict(manifest.select("clip_id", "emotion").iter_rows())
    for emotion, before, after in counts.select("emotion", "before", "after").iter_rows():
        joined = [source for _, source in choice.chosen.rows() if emotion_of[source] == emotion]
        assert before == list(emotion_of.values()).count(emotion)
        assert after == before + len(joined)
    assert counts["after"].sum() == choice.reached
    assert f"|  | all | {manifest.height} | {choice.reached} |" in counts_table(counts)
