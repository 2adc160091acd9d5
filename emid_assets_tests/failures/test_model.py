"""Whatever happens to a lake, in any order, it holds what a plain dictionary says that it must hold.

Hypothesis draws the steps: builds, runs of the launchpad, kills, losses of power, full disks, other settings
and shards, jumps of the clock, copies, moves, garbage collection, changes of the media, damage. The expected
tables are computed here from the media and the settings, by brute force. The short form runs with the slow
tests. The long form:

    MODEL_SEED=1 MODEL_MINUTES=10 pytest -m heavy emid_assets_tests/failures/test_model.py

`MODEL_MINUTES` (10) ends it, `MODEL_SEED` (0) chooses the steps. What fails is printed as a program of steps.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from emid_assets.affect.emotions import IMAGE_EMOTIONS, MUSIC_EMOTIONS
from emid_assets.health.verdict import Health
from emid_assets.store.files import write_in_place
from emid_assets.store.lake import Lake
from emid_assets.store.layout import ANSWERS_STORE, STUDY_FOLDER
from emid_assets.study.answers import AnswerStore, answers_frame
from emid_assets_tests.defs.tiny_media import write_clip, write_image
from emid_assets_tests.failures.faults import Circumstances, Fault, Noting
from emid_assets_tests.failures.tiny import PLACES, Pipeline, WithSettings, in_a_child, prepare_hash

pytestmark = pytest.mark.slow

LABELS = {"music": ("sad", "calm"), "images": ("awe", "fear")}
UP_TO_THE_PAIRS = frozenset({"inventory", "embed_music", "embed_images", "match_shards", "align", "release"})
"""The stages of most builds: the others take most of a build's time."""

OF_STAGES = (
    "media_inventory", "music_clips", "images", "music_embeddings", "image_embeddings", "expanded_clips",
    "similarity_matrix", "va_distances", "fused_pairs", "emid_release",
)  # fmt: skip
UNIQUE = {
    "music_clips": "clip_id",
    "music_embeddings": "clip_id",
    "images": "image_id",
    "image_embeddings": "image_id",
}
OTHER_SETTINGS: tuple[dict[str, Any], ...] = (
    {"alpha": 1.0, "images_per_clip": 1}, {"alpha": 0.2}, {"images_per_clip": 2}, {"candidates": 2},
    {"va_alignment": "fixed"}, {"semantic_rescaling": "candidate_softmax"},
)  # fmt: skip
SHARDS: tuple[dict[str, Any], ...] = ({}, {"image_shards": 2}, {"shards_per_emotion": 2})
FAULTS: tuple[Literal["kill", "power", "full"], ...] = ("kill", "power", "full")
OPERATIONS_OF_A_BUILD, OPERATIONS_OF_A_RUN = 900, 150


# What the lake must hold, from the media and the settings alone.


def aligned(points: np.ndarray, labels: list[str], low: float, high: float, method: str) -> np.ndarray:
    """Points on [-1, 1]²: by the ends of the scale, or by mean and spread, each label with one weight."""
    centre, unit = np.full(2, (low + high) / 2), np.full(2, (high - low) / 2)
    if method == "standardize":
        counts = Counter(labels)
        weights = np.array([1 / counts[label] for label in labels])[:, None]
        weights /= weights.sum()
        mean = (weights * points).sum(0)
        spread = np.sqrt((weights * (points - mean) ** 2).sum(0))
        flat = spread <= 1e-9 * (high - low)
        centre, unit = np.where(flat, centre, mean), np.where(flat, unit, 2 * spread)
    moved = (points - centre) / unit
    return moved / np.maximum(np.abs(moved).max(1, keepdims=True), 1)


def on_plane(emotions: Any, labels: list[str], low: float, high: float, method: str) -> np.ndarray:
    of_key = {emotion.key: (emotion.valence, emotion.arousal) for emotion in emotions}
    return aligned(np.array([of_key[label] for label in labels]), labels, low, high, method)


def expected_pairs(
    music: dict[str, str], images: dict[str, str], vectors: dict[str, np.ndarray], given: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Clip → image → T of its candidates, of {id: label} and {id: the encoder's vector}."""
    method = given["va_alignment"]
    clips, pictures = sorted(music), sorted(images)
    u = on_plane(MUSIC_EMOTIONS, [music[one] for one in clips], 1, 9, method)
    v = on_plane(IMAGE_EMOTIONS, [images[one] for one in pictures], 0, 1, method)
    Y = np.stack([vectors[one] for one in pictures])
    found = {}
    for clip, point in zip(clips, u, strict=True):
        scores = Y @ vectors[clip]
        chosen = np.argsort(-scores, kind="stable")[: given["candidates"]]
        S = np.exp(scores[chosen] - scores.max())
        if given["semantic_rescaling"] == "candidate_softmax":
            S = S / S.sum()
        else:
            S = (S - S.min()) / (1 - S.min()) if S.min() < 1 else np.ones_like(S)
        norms = np.linalg.norm(v[chosen], axis=1) * np.linalg.norm(point)
        E = (1 + v[chosen] @ point / norms) / 2
        T = given["alpha"] * S + (1 - given["alpha"]) * E
        found[clip] = {pictures[column]: float(score) for column, score in zip(chosen, T, strict=True)}
    return found


class LakeMachine(RuleBasedStateMachine):
    """A lake, its media folder, and what is known about them.

    Attributes:
        base: what every example starts from.
        folder: an empty folder for the next example.
        end: the time (monotonic) at which no further step is taken.
        steps: how often each step was taken, over all examples.
    """

    base: Pipeline
    folder: Callable[[], Path]
    end: float
    steps: Counter[str]

    @initialize()
    def copy_the_base(self) -> None:
        self.steps["examples"] += 1
        self.place = self.folder()
        copied = self.base.copy(self.place / "0")
        self.pipeline = WithSettings(copied.media, copied.root)
        self.media = {
            path.relative_to(copied.media).as_posix() for path in copied.media.rglob("*") if path.is_file()
        }
        self.broken: set[str] = set()
        self.given: dict[str, Any] = {}
        self.shards: dict[str, Any] = {}
        self.clock_s = 0.0
        self.damaged: set[tuple[str, str]] = set()
        self.alpha_of: dict[str, Any] = dict.fromkeys(LABELS["music"], self.pipeline.settings.alpha)
        self.answers: list[dict[str, Any]] = []
        self.is_current = True
        """Whether nothing has happened since all of `OF_STAGES` was built."""
        self.is_shown = True
        """Whether no process has died since the catalogue was written."""
        self.media_changed = False
        self.number = 0
        self.last = ""

    # What the steps share

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def settled(self, given: dict[str, Any]) -> WithSettings:
        return WithSettings(self.pipeline.media, self.pipeline.root, {**given, **self.shards})

    def circumstances(self, fault: Fault | None = None, whole: bool = False) -> Circumstances:
        noting = Noting(self.pipeline.root, self.notes)
        return Circumstances(self.clock_s, noting, fault, None if whole else UP_TO_THE_PAIRS)

    @property
    def notes(self) -> Path:
        return self.place / "notes"

    def fault(self, kind: Literal["kill", "power", "full"], at: int) -> Fault:
        replaced = self.place / f"replaced-{self.next_number()}"
        replaced.mkdir()
        return Fault(self.pipeline.root, kind, at, replaced)

    def media_of(self, kind: str) -> list[str]:
        return sorted(file for file in self.media if file.startswith(f"{kind}/"))

    def usable(self, kind: str) -> dict[str, str]:
        """Id → label."""
        files = [file for file in self.media_of(kind) if file not in self.broken]
        return {file.partition("/")[2]: file.split("/")[1] for file in files}

    def build(self, fault: Fault | None, whole: bool) -> str:
        said = self.settled(self.given).build(self.circumstances(fault, whole))
        if said == "":
            self.is_current, self.is_shown, self.media_changed = True, True, False
            self.damaged = {place for place in self.damaged if not whole and place[0] not in OF_STAGES}
            self.alpha_of = dict.fromkeys(LABELS["music"], self.settled(self.given).settings.alpha)
            self.holds_what_it_must()
        return said

    def touched(self) -> None:
        self.is_current = False

    # Steps: builds and runs

    @rule(whole=st.sampled_from([False, False, False, True]))
    def build_all(self, whole: bool) -> None:
        self.begin("whole build" if whole else "build")
        assert self.build(None, whole) == ""

    @rule(
        place=st.sampled_from([place for place in PLACES if place[0] in UP_TO_THE_PAIRS]),
        other=st.sampled_from([{}, *OTHER_SETTINGS]),
    )
    def launchpad(self, place: tuple[str, str | None], other: dict[str, Any]) -> None:
        self.begin("launchpad run")
        self.run(place, {**self.given, **other}, None)

    def run(self, place: tuple[str, str | None], given: dict[str, Any], fault: Fault | None) -> str:
        stage, label = place
        partition = f"{label}-00" if label and "shards_per_emotion" in self.shards else label
        pipeline = self.settled(given)
        self.touched()
        said = pipeline.run(stage, partition, self.circumstances(fault))
        if stage == "align":
            self.alpha_of[str(label)] = pipeline.settings.alpha if said == "" else None
        if said == "":
            self.is_shown = True
        if said == "" and stage == "inventory":
            self.media_changed = False
        assert "Traceback" not in said
        assert "\n" not in said
        return said

    @rule(kind=st.sampled_from(FAULTS), at=st.integers(1, OPERATIONS_OF_A_BUILD))
    def a_build_meets(self, kind: Literal["kill", "power", "full"], at: int) -> None:
        self.begin(f"{kind} in a build")
        self.touched()
        self.met(self.build(self.fault(kind, at), False), kind)

    @rule(
        kind=st.sampled_from(FAULTS),
        at=st.integers(1, OPERATIONS_OF_A_RUN),
        place=st.sampled_from([place for place in PLACES if place[0] in UP_TO_THE_PAIRS]),
    )
    def a_run_meets(
        self, kind: Literal["kill", "power", "full"], at: int, place: tuple[str, str | None]
    ) -> None:
        self.begin(f"{kind} in a run")
        self.met(self.run(place, self.given, self.fault(kind, at)), kind)

    def met(self, said: str, kind: str) -> None:
        assert "Traceback" not in said
        if said:
            self.alpha_of = dict.fromkeys(LABELS["music"])
            self.is_shown = False
            self.steps[f"{kind}: met"] += 1
        if kind == "full" and said:
            assert "No space left" in said or "full" in said or "has space" in said, said

    # Steps: settings, clock, place

    @rule(other=st.sampled_from(OTHER_SETTINGS))
    def other_settings(self, other: dict[str, Any]) -> None:
        self.begin("other settings")
        self.given = {**self.given, **other}
        self.touched()

    @rule(shards=st.sampled_from(SHARDS))
    def other_shards(self, shards: dict[str, Any]) -> None:
        self.begin("other shards")
        self.is_current = self.is_current and self.shards == shards
        self.shards = shards

    @precondition(lambda self: self.last != "clock jump")
    @rule(seconds=st.sampled_from([-86_400.0, 0.0, 3600.0, 20 * 86_400.0]))
    def clock_jumps(self, seconds: float) -> None:
        self.begin("clock jump")
        self.clock_s = seconds

    @rule(move=st.booleans())
    def goes_elsewhere(self, move: bool) -> None:
        self.begin("move" if move else "copy")
        target = self.place / str(self.next_number()) / "lake"
        target.parent.mkdir()
        if move:
            self.pipeline.root.rename(target)
        else:
            shutil.copytree(self.pipeline.root, target, symlinks=True)
        self.pipeline = WithSettings(self.pipeline.media, target)

    @precondition(lambda self: self.last != "garbage collection")
    @rule()
    def collects_garbage(self) -> None:
        self.begin("garbage collection")
        lake = self.pipeline.lake
        lake.rebuild_catalogue()
        self.is_shown = True
        lake.collect_garbage(0)
        left = {path for path in (lake.root / "tables").glob("*/*/*") if not path.name.startswith(".")}
        current = {path for table in lake.tables() for path in lake.current_files(table).values()}
        assert current <= left
        assert left - current == set((lake.root / "tables").glob("*/*/CURRENT"))

    # Steps: media

    @rule(
        kind=st.sampled_from(["music", "images"]),
        which=st.integers(0, 1),
        broken=st.sampled_from([False, False, True]),
    )
    def add_a_file(self, kind: str, which: int, broken: bool) -> None:
        self.begin("add a file")
        suffix = "wav" if kind == "music" else "png"
        file = f"{kind}/{LABELS[kind][which]}/new{self.next_number()}.{suffix}"
        self.write(file, broken)

    def write(self, file: str, broken: bool) -> None:
        path = self.pipeline.media / file
        path.unlink(missing_ok=True)
        if broken:
            path.write_bytes(b"neither a picture nor a sound")
        elif file.startswith("music/"):
            write_clip(path, self.next_number())
        else:
            write_image(path, 1000 + self.next_number())
        self.media.add(file)
        self.broken = self.broken - {file} | ({file} if broken else set())
        self.media_touched()

    def media_touched(self) -> None:
        self.media_changed = True
        self.touched()

    def may_lose(self, file: str) -> bool:
        """Whether its label keeps a usable file without it."""
        folder = file.rpartition("/")[0]
        others = [one for one in self.media - self.broken - {file} if one.rpartition("/")[0] == folder]
        return bool(others)

    @rule(kind=st.sampled_from(["music", "images"]), which=st.integers(0, 9))
    def remove_a_file(self, kind: str, which: int) -> None:
        file = self.media_of(kind)[which % len(self.media_of(kind))]
        if self.may_lose(file):
            self.begin("remove a file")
            (self.pipeline.media / file).unlink()
            self.forget(file)

    def forget(self, file: str) -> None:
        self.media.remove(file)
        self.broken.discard(file)
        self.media_touched()

    @rule(kind=st.sampled_from(["music", "images"]), which=st.integers(0, 9), broken=st.booleans())
    def edit_a_file(self, kind: str, which: int, broken: bool) -> None:
        file = self.media_of(kind)[which % len(self.media_of(kind))]
        if file.endswith((".wav", ".png")) and (not broken or self.may_lose(file)):
            self.begin("edit a file")
            self.write(file, broken)

    @rule(kind=st.sampled_from(["music", "images"]), which=st.integers(0, 9), other_label=st.booleans())
    def rename_a_file(self, kind: str, which: int, other_label: bool) -> None:
        file = self.media_of(kind)[which % len(self.media_of(kind))]
        if not self.may_lose(file):
            return
        self.begin("other label" if other_label else "rename")
        _, label, name = file.split("/")
        if other_label:
            label = next(one for one in LABELS[kind] if one != label)
        target = f"{kind}/{label}/moved{self.next_number()}-{name.rpartition('-')[2]}"
        (self.pipeline.media / file).rename(self.pipeline.media / target)
        was_broken = file in self.broken
        self.forget(file)
        self.media.add(target)
        self.broken |= {target} if was_broken else set()

    # Steps: damage, answers

    @rule(which=st.integers(0, 200), empty=st.booleans())
    def damage_a_file(self, which: int, empty: bool) -> None:
        lake = self.pipeline.lake
        tables = [table for table in lake.tables() if table in OF_STAGES]
        places = [(table, one) for table in tables for one in lake.partitions(table)]
        place = places[which % len(places)]
        if place in self.damaged:
            return
        self.begin("damage")
        path = lake.current_files(place[0])[place[1]]
        path.chmod(0o644)
        content = path.read_bytes()
        path.write_bytes(b"" if empty else content[:4096] + os.urandom(len(content) - 4096))
        path.chmod(0o444)
        self.damaged.add(place)
        self.touched()

    @precondition(lambda self: self.last != "answers")
    @rule(count=st.integers(1, 3))
    def participants_answer(self, count: int) -> None:
        self.begin("answers")
        rows = [
            {
                "participant_id": f"{self.next_number():032x}", "trial_id": "t", "clip_id": "sad/none.wav",
                "emotion": "sad", "conditions": ["fused"], "chosen_condition": "fused", "chosen_position": 1,
                "response_ms": 1000, "is_attention_check": False, "attention_passed": None,
                "language": "en", "answered_at": datetime(2026, 1, 1, tzinfo=UTC), "design_hash": "0" * 16,
            }
            for _ in range(count)
        ]  # fmt: skip
        assert AnswerStore(self.answers_file).add(rows) == ["stored"] * count
        self.answers += rows

    @property
    def answers_file(self) -> Path:
        return self.pipeline.root / STUDY_FOLDER / ANSWERS_STORE

    # What holds

    def begin(self, step: str) -> None:
        if time.monotonic() > self.end:
            raise TimeIsUpError
        self.last = step
        self.steps[step] += 1

    @invariant()
    def nothing_is_lost(self) -> None:
        lake = self.pipeline.lake
        assert not self.notes.exists(), self.notes.read_text()
        stored = AnswerStore(self.answers_file).read()
        assert stored.sort("participant_id").equals(answers_frame(self.answers).sort("participant_id"))
        surveyed = lake.survey(lake.tables())
        unreadable = {place for place, found in surveyed.items() if isinstance(found, Exception)}
        assert unreadable <= self.damaged, {place: surveyed[place] for place in unreadable - self.damaged}
        self.damaged &= set(unreadable)  # a run may have replaced it
        self.catalogue_shows(lake)
        self.health_agrees()

    def catalogue_shows(self, lake: Lake) -> None:
        tables_of_damage = {table for table, _ in self.damaged}
        with duckdb.connect(str(lake.catalogue_path), read_only=True) as catalogue:
            for table in lake.tables():
                if table in tables_of_damage:
                    continue
                shown = catalogue.table(table).pl()
                if table in UNIQUE:
                    assert not shown[UNIQUE[table]].is_duplicated().any(), table
                if self.is_shown and lake.partitions(table):
                    rows = lake.read(table)
                    assert shown.height == rows.height, table
                    if table in UNIQUE:
                        assert set(shown[UNIQUE[table]]) == set(rows[UNIQUE[table]])

    def health_agrees(self) -> None:
        pipeline = self.settled(self.given)
        health = pipeline.health()
        found = {(row["asset"], row["partition"]): row for row in health.states.iter_rows(named=True)}
        damaged = {place for place, row in found.items() if row["state"] == "damaged"}
        assert damaged <= self.damaged
        assert {place for place in self.damaged if place in found} <= damaged
        if self.media_changed:
            assert found["media_inventory", "all"]["state"] != "ok"
        alpha = pipeline.settings.alpha
        for (asset, partition), row in found.items():
            known = self.alpha_of.get(partition.partition("-")[0])
            if asset == "fused_pairs" and known is not None and known != alpha and not self.shards:
                assert row["state"] != "ok", partition
        if self.is_current:
            self.all_is_well(health)

    def all_is_well(self, health: Health) -> None:
        with_media = {"all", *LABELS["music"], *LABELS["images"]}
        states = health.states.filter(pl.col("asset").is_in(OF_STAGES))
        others = states.filter(pl.col("state") != "ok")
        has_media = [bool(with_media & {*one.split("-")}) for one in others["partition"]]
        assert not others.filter(pl.Series(has_media, dtype=pl.Boolean)).rows()
        assert not [note for note in health.notes if note.count("fused_pairs") > 1]

    def holds_what_it_must(self) -> None:
        """After a build: every table up to the release, as computed here."""
        lake, media = self.pipeline.lake, self.pipeline.media
        inventory = lake.read("media_inventory")
        assert set(inventory["file"]) == self.media
        assert set(inventory.filter(pl.col("reason").is_not_null())["file"]) == self.broken
        assert set(lake.read("rejected_media")["file"]) == self.broken
        vectors: dict[str, np.ndarray] = {}
        for kind, table, key, label in (
            ("music", "music_clips", "clip_id", "emotion"), ("images", "images", "image_id", "tag"),
        ):  # fmt: skip
            expected = self.usable(kind)
            manifest = lake.read(table)
            assert dict(manifest.select(key, label).iter_rows()) == expected
            assert manifest.height == len(expected)
            embedded = lake.read("music_embeddings" if kind == "music" else "image_embeddings")
            assert sorted(embedded[key]) == sorted(expected)
            for row in embedded.iter_rows(named=True):
                item = _Item(media / kind / row[key])
                assert row["content_hash"] == hashlib.sha256(item.path.read_bytes()).hexdigest()
                vectors[row[key]] = 20 * prepare_hash(item).astype(np.float64)  # type: ignore[arg-type]
                stored = np.array(row["embedding"]) * row["scale"]
                np.testing.assert_allclose(stored, vectors[row[key]], rtol=1e-5, atol=1e-4)
        self.pairs_are_the_best(lake, vectors)
        assert not self.pipeline.unfinished()
        release = pl.read_csv(lake.root / "release" / "EMID_data.csv", infer_schema=False)
        assert release.height

    def pairs_are_the_best(self, lake: Lake, vectors: dict[str, np.ndarray]) -> None:
        given = self.settled(self.given).settings.model_dump()
        expected = expected_pairs(self.usable("music"), self.usable("images"), vectors, given)
        pairs = lake.read("fused_pairs")
        assert set(pairs["clip_id"]) == set(expected)
        for (clip,), rows in pairs.group_by("clip_id"):
            T = expected[str(clip)]
            best = sorted(T.values(), reverse=True)[: given["images_per_clip"]]
            np.testing.assert_allclose(rows.sort("rank")["fused_score"], best, rtol=1e-4, atol=1e-5)
            for image, score in rows.select("image_id", "fused_score").iter_rows():
                np.testing.assert_allclose(score, T[image], rtol=1e-4, atol=1e-5)
            assert rows["image_id"].n_unique() == rows.height

    def teardown(self) -> None:
        """In the end, one build is enough, whatever happened before."""
        if hasattr(self, "pipeline") and time.monotonic() <= self.end:
            try:
                self.clock_s = 0.0
                assert self.build(None, False) == ""
                self.nothing_is_lost()
            finally:
                shutil.rmtree(self.place)


class _Item:
    def __init__(self, path: Path) -> None:
        self.path = path


class TimeIsUpError(BaseException):
    """The time of the long form is over: no error, and hypothesis does not try it again."""


def explore(
    built: Pipeline, tmp_path: Path, minutes: float, seed_: int, examples: int, steps: int
) -> Counter[str]:
    """Run examples until the time is over or there are enough; what was done, and how often."""
    count = iter(range(10**9))

    def folder() -> Path:
        path = tmp_path / f"example-{next(count)}"
        path.mkdir()
        return path

    class Machine(LakeMachine):
        pass

    Machine.base, Machine.folder = built, staticmethod(folder)
    Machine.end, Machine.steps = time.monotonic() + 60 * minutes, Counter()
    form = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
    with contextlib.suppress(TimeIsUpError):
        run_state_machine_as_test(seed(seed_)(Machine), settings=form)
    return Machine.steps


def test_whatever_happens_the_lake_holds_what_it_must(built: Pipeline, tmp_path: Path) -> None:
    assert explore(built, tmp_path, minutes=10, seed_=5, examples=2, steps=4)["examples"] == 2


def _write_badly(folder: Path, befalls: Fault, to: Any) -> None:
    befalls()
    write_in_place(folder / "good", "new")
    (folder / "half").write_text("new")
    (folder / "half").replace(folder / "bad")
    (folder / "last").write_text("never")
    to.send("spared")


def test_a_loss_of_power_takes_what_is_not_synced_and_nothing_else(tmp_path: Path) -> None:
    folder, replaced = tmp_path / "lake", tmp_path / "replaced"
    for path in (folder, replaced):
        path.mkdir()
    for name in ("good", "bad", "other"):
        (folder / name).write_text("old")
    operations = 7  # open, open, rename, open; open, rename; open
    said = in_a_child(_write_badly, folder, Fault(folder, "power", operations, replaced))
    assert said == "-9"
    left = {path.name: path.read_text() for path in folder.iterdir()}
    assert left == {"good": "new", "bad": "old", "half": "", "other": "old"}


@pytest.mark.heavy
def test_whatever_happens_for_long_the_lake_holds_what_it_must(
    built: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    minutes = float(os.environ.get("MODEL_MINUTES", "10"))
    seed_ = int(os.environ.get("MODEL_SEED", "0"))
    done = explore(built, tmp_path, minutes, seed_, examples=100_000, steps=12)
    with capsys.disabled():
        print(f"\nseed {seed_}, {minutes:g} minutes: {dict(done.most_common())}")
    assert done["examples"] > 1
