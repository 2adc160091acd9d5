"""The design: what is balanced, what happens to ties, and that nothing tells the conditions."""

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest

from emid_assets.study.design import (
    CHECKS,
    CONDITIONS,
    FORMS,
    PRACTICE,
    SYSTEMS,
    Design,
    StudyError,
    Trial,
    _forms,
    draw_design,
    read_design,
)
from emid_assets_tests.study.conftest import choices_of, music, pictures

CLIPS, IMAGES = 80, 120
NAMES = [f"image-{number:03}" for number in range(IMAGES)]


def offers(tied: int = 0) -> dict[str, dict[str, list[str]]]:
    """What the systems offer for each clip; the last `tied` clips have one first image for all three."""
    rng = np.random.default_rng(5)
    offered = {}
    for number, clip in enumerate(music(CLIPS)["clip_id"]):
        images = [NAMES[place] for place in rng.choice(IMAGES, 9, replace=False)]
        offered[clip] = {system: images[3 * place : 3 * place + 3] for place, system in enumerate(SYSTEMS)}
        if number >= CLIPS - tied:
            for system in SYSTEMS:
                offered[clip][system] = [images[0], *offered[clip][system][1:]]
    return offered


def drawn(
    offered: dict[str, dict[str, list[str]]] | None = None, splits: Any = None, **changed: Any
) -> Design:
    arguments = {"seed": 3, "clips": 40, "trials": 24, "facts": {"alpha": 0.6}} | changed
    return draw_design(
        choices_of(offers() if offered is None else offered), music(CLIPS), pictures(NAMES), splits or {},
        **arguments,
    )  # fmt: skip


def test_every_trial_shows_four_different_images_one_of_each_condition() -> None:
    for trial in drawn(offers(CLIPS)).of_kind("trial"):
        assert sorted(str(option.condition) for option in trial.options) == sorted(CONDITIONS)
        assert len({option.image_id for option in trial.options}) == 4


def test_every_condition_stands_equally_often_in_every_place_of_every_form() -> None:
    design = drawn()
    for form in design.forms:
        places = Counter(
            (place, design.by_id[trial].options[option].condition)
            for trial, screen in form
            for place, option in enumerate(screen)
        )
        assert set(places.values()) == {24 // 4}
        assert len(places) == 16


def test_forms_show_every_clip_equally_often_and_spread_over_the_emotions() -> None:
    design = drawn()
    shown = Counter(trial for form in design.forms for trial, _ in form)
    assert len(shown) == 40
    assert max(shown.values()) - min(shown.values()) <= 1
    assert Counter(trial.emotion for trial in design.of_kind("trial")) == {
        "calm": 10, "joyful": 10, "sad": 10, "scary": 10
    }  # fmt: skip
    for form in design.forms:
        emotions = Counter(design.by_id[trial].emotion for trial, _ in form)
        assert len({trial for trial, _ in form}) == 24
        assert min(emotions.values()) >= 3


def forms_by_looking_at_every_trial(trials: list[Trial], length: int, rng: np.random.Generator) -> list[Any]:
    """The rule of the forms, written out: each time the best of all trials that are left."""
    shown: Counter[str] = Counter()
    forms = []
    for _ in range(FORMS):
        emotions: Counter[str] = Counter()
        lot = dict(zip((trial.trial_id for trial in trials), rng.permutation(len(trials)), strict=True))
        left, form = list(trials), []
        while len(form) < length:
            if len(form) % 4 == 0:
                base, turns = [CONDITIONS[place] for place in rng.permutation(4)], rng.permutation(4)
            best = min(left, key=lambda t: (shown[t.trial_id], emotions[t.emotion], lot[t.trial_id]))
            left.remove(best)
            shown[best.trial_id] += 1
            emotions[best.emotion] += 1
            turn = int(turns[len(form) % 4])
            places = [[option.condition for option in best.options].index(name) for name in base]
            form.append((best.trial_id, tuple(places[turn:] + places[:turn])))
        forms.append(tuple(form))
    return forms


@pytest.mark.parametrize(("clips", "length"), [(40, 24), (17, 17), (60, 7), (5, 1)])
def test_forms_are_those_of_looking_at_every_trial_that_is_left(clips: int, length: int) -> None:
    trials = drawn(clips=clips).of_kind("trial")
    ours = _forms(trials, length, np.random.default_rng(9))
    assert ours == forms_by_looking_at_every_trial(trials, length, np.random.default_rng(9))


def test_a_condition_that_shows_the_best_of_its_own_is_of_rank_one_and_random_is_no_other_systems_image() -> (
    None
):
    offered = offers()
    for trial in drawn(offered).of_kind("trial"):
        of_clip = offered[trial.clip_id]
        for option in trial.options:
            if option.condition in SYSTEMS:
                assert option.image_id == of_clip[str(option.condition)][0]
                assert (option.rank, option.tied_with) == (1, ())
    chosen = [option.image_id for trial in drawn(offered).of_kind("trial") for option in trial.options]
    assert len(set(chosen)) > 80


def test_clips_without_ties_are_drawn_first() -> None:
    offered = offers(tied=CLIPS // 2)
    design = drawn(offered)
    assert not any(option.tied_with for trial in design.of_kind("trial") for option in trial.options)
    assert design.facts["ties"] == {
        "semantic = fused": 40, "semantic = adapter": 40, "fused = adapter": 40, "any": 40
    }  # fmt: skip


def test_tied_systems_move_on_in_turn_by_lot_and_the_tie_is_recorded() -> None:
    offered = offers(tied=CLIPS)
    design = drawn(offered, clips=80)
    kept: Counter[str] = Counter()
    for trial in design.of_kind("trial"):
        for option in trial.options:
            if option.condition in SYSTEMS:
                assert set(option.tied_with) == set(SYSTEMS) - {option.condition}
                assert offered[trial.clip_id][option.condition][option.rank - 1] == option.image_id
                if option.rank == 1:
                    kept[option.condition] += 1
    assert sum(kept.values()) == 80
    assert min(kept[system] for system in SYSTEMS) > 15  # none is preferred: 26.7 expected, sd 4.2


def test_clips_that_the_adapter_was_tested_on_come_first() -> None:
    tested = set(music(CLIPS)["clip_id"][::2])
    splits = {clip: "test" if clip in tested else "train" for clip in music(CLIPS)["clip_id"]}
    # Every second clip is of calm or sad: those take only tested clips, the others have none.
    for trial in drawn(splits=splits).of_kind("trial"):
        assert (trial.split == "test") == (trial.emotion in ("calm", "sad"))


def test_of_one_recording_there_is_one_clip() -> None:
    clips = music(CLIPS).with_columns(source_id="clip_id")
    windows = clips.with_columns(
        source_id=pl.format("song-{}", pl.int_range(pl.len()) // 8)  # eight windows of each of ten songs
    )
    design = draw_design(
        choices_of(offers()), windows, pictures(NAMES), {}, seed=3, clips=40, trials=24, facts={}
    )
    song = dict(windows.select("clip_id", "source_id").iter_rows())
    heard = [song[trial.clip_id] for trial in design.of_kind("trial")]
    assert len(heard) == len(set(heard)) == 10


def test_practice_and_attention_checks_use_clips_that_do_not_count() -> None:
    design = drawn()
    counted = {trial.clip_id for trial in design.of_kind("trial")}
    extra = design.of_kind("check") + design.of_kind("practice")
    assert len(extra) == CHECKS + PRACTICE
    assert not counted & {trial.clip_id for trial in extra}
    assert {option.condition for trial in extra for option in trial.options} == {None}
    wanted = [trial.wanted for trial in design.of_kind("check")]
    assert len(set(wanted)) == CHECKS
    assert set(wanted) <= {1, 2, 3, 4}


def test_a_small_collection_has_a_study_too() -> None:
    offered = dict(list(offers().items())[:1])
    design = drawn(offered)
    assert len(design.of_kind("trial")) == 1
    assert len({trial.trial_id for trial in design.trials}) == 1 + CHECKS + PRACTICE
    assert all(len(form) == 1 for form in design.forms)


def test_the_order_of_a_trials_options_tells_no_condition() -> None:
    trials = drawn(clips=80).of_kind("trial")
    for place in range(4):
        conditions = Counter(trial.options[place].condition for trial in trials)
        assert set(conditions) == set(CONDITIONS)
        assert max(conditions.values()) < 40  # 20 expected, sd 3.9


def test_equal_inputs_give_the_same_design_and_another_seed_another() -> None:
    assert drawn().to_json() == drawn().to_json()
    assert drawn().hash != drawn(seed=4).hash
    assert not set(drawn().by_id) & set(drawn(seed=4).by_id)


def test_a_design_is_the_same_after_writing_and_reading_and_a_changed_one_is_refused() -> None:
    design = drawn()
    assert read_design(design.to_json()) == design
    swapped = design.to_json().replace('"condition":"fused"', '"condition":"random"', 1)
    with pytest.raises(StudyError, match="changed"):
        read_design(swapped)
    with pytest.raises(StudyError, match="not a design"):
        read_design("[]")


def test_too_few_images_or_clips_on_which_nothing_can_differ_are_told() -> None:
    with pytest.raises(StudyError, match="shows 4 images, and there are 3"):
        draw_design(
            choices_of(offers()), music(CLIPS), pictures(NAMES[:3]), {}, seed=0, clips=4, trials=4, facts={}
        )
    alike = {clip: {system: ["image-000"] for system in SYSTEMS} for clip in music(CLIPS)["clip_id"]}
    with pytest.raises(StudyError, match="no clip for which"):
        drawn(alike)


def test_a_clip_on_which_two_systems_have_nothing_else_to_show_is_left_out_and_counted() -> None:
    offered = offers()
    first = next(iter(offered))
    offered[first] = {"semantic": ["image-000"], "fused": ["image-000"], "adapter": NAMES[1:4]}
    design = drawn(offered, clips=80)
    assert first not in {trial.clip_id for trial in design.of_kind("trial")}
    assert design.facts["clips_that_cannot_differ"] == 1


def test_the_frame_has_a_row_for_each_image_of_a_trial_that_counts() -> None:
    design = drawn()
    frame = design.frame()
    assert frame.height == 40 * 4
    assert frame["condition"].to_list() == list(CONDITIONS) * 40
    assert frame["design_hash"].unique().to_list() == [design.hash]


def test_forms_are_chosen_by_the_id_evenly() -> None:
    design = drawn()
    ids = [np.random.default_rng(number).bytes(16).hex() for number in range(3000)]
    counts = Counter(design.form_of(name) for name in ids)
    assert len(counts) == len(design.forms)
    assert max(counts.values()) < 60  # 25 expected, sd 5
