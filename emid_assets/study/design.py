"""The design of the listening study: which clips, which images, in which order.

Belongs here: drawing a design from what each system shows first, and the design as a file. The page
that shows it is `page`, what participants send back is `answers`. Nothing here reads media.

**Ties.** Systems may show the same image first for a clip, and a trial cannot show one image twice.
Within each emotion, clips on which all systems differ are drawn first. When those run out, the
systems of a trial take their images in an order drawn for that trial, and a system whose image is taken
shows its next one. Each tie is recorded: `tied_with` names the conditions that had the same first image,
and a `rank` above 1 marks an image that was moved; the design also counts ties over all clips.
"""

import hashlib
import itertools
import json
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl

from emid_assets.store.schemas import LISTENING_STUDY

SYSTEMS = ("semantic", "fused", "adapter")
RANDOM = "random"
CONDITIONS = (*SYSTEMS, RANDOM)
"""α = 1, the α in use, the adapter's best network, and a random image that no other condition shows."""
RANKS_NEEDED = len(SYSTEMS)
"""Images that each system must offer, so that ties can move on."""
FORMS = 120
"""Orders that are drawn in advance; a participant's id chooses one."""
CHECKS = 3
"""Attention checks of a participant."""
PRACTICE = 2
VERSION = 1
TIE_RULE = (
    "Within an emotion, clips whose systems show different images come first. Else the systems take their "
    "images in an order drawn for the trial, and one whose image is taken shows its next."
)

TrialKind = Literal["trial", "check", "practice"]
Screen = tuple[int, ...]
"""For each place on the screen, the index of the option that is shown there."""


class StudyError(ValueError):
    """No study can be made of this; the message says why and what to do."""


@dataclass(frozen=True)
class Option:
    """An image of a trial.

    Attributes:
        option_id: opaque.
        image_id: the image.
        condition: what picked it; None in practice and in attention checks.
        rank: in the condition's own order, from 1.
        tied_with: conditions whose first image is the same as this condition's.
    """

    option_id: str
    image_id: str
    condition: str | None = None
    rank: int = 1
    tied_with: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """A clip with its images, which are ordered by their opaque ids.

    Attributes:
        trial_id: opaque.
        kind: whether it counts, checks attention, or is practice.
        clip_id: the clip.
        emotion: of the clip.
        split: of the clip, when the adapter was trained; None for one added later.
        options: its images.
        wanted: in an attention check, the place that participants are told to choose, from 1.
    """

    trial_id: str
    kind: TrialKind
    clip_id: str
    emotion: str
    split: str | None
    options: tuple[Option, ...]
    wanted: int | None = None


@dataclass(frozen=True)
class Design:
    """A whole study.

    Attributes:
        facts: alpha, network, seed, the rule for ties, and how many there are.
        trials: all trials, practice and attention checks included.
        forms: for each form, its trials and their order on the screen.
    """

    facts: Mapping[str, Any]
    trials: tuple[Trial, ...]
    forms: tuple[tuple[tuple[str, Screen], ...], ...]

    @cached_property
    def hash(self) -> str:
        """Identifies the design: equal for equal content."""
        return _digest(self._content())[:16]

    @cached_property
    def by_id(self) -> dict[str, Trial]:
        """Trials by their id."""
        return {trial.trial_id: trial for trial in self.trials}

    @cached_property
    def screens(self) -> tuple[dict[str, Screen], ...]:
        """Each form as trial → order on the screen."""
        return tuple(dict(form) for form in self.forms)

    def of_kind(self, kind: TrialKind) -> list[Trial]:
        """The trials of one kind, in the design's order."""
        return [trial for trial in self.trials if trial.kind == kind]

    def form_of(self, participant_id: str) -> int:
        """The form that a participant's id (32 hexadecimal digits) chooses."""
        return int(participant_id[:8], 16) % len(self.forms)

    def screen_of(self, participant_id: str, trial: Trial) -> tuple[Option, ...] | None:
        """The images of a trial as this participant sees them; None where they do not see the trial."""
        if trial.kind != "trial":
            return trial.options
        screen = self.screens[self.form_of(participant_id)].get(trial.trial_id)
        return None if screen is None else tuple(trial.options[place] for place in screen)

    def frame(self) -> pl.DataFrame:
        """LISTENING_STUDY rows: the images of the trials that count, by trial and condition."""
        rows = [
            {
                "trial_id": trial.trial_id,
                "clip_id": trial.clip_id,
                "emotion": trial.emotion,
                "split": trial.split,
                "condition": option.condition,
                "option_id": option.option_id,
                "image_id": option.image_id,
                "condition_rank": option.rank,
                "tied_with": list(option.tied_with),
                "design_hash": self.hash,
            }
            for trial in self.of_kind("trial")
            for option in sorted(trial.options, key=lambda option: CONDITIONS.index(str(option.condition)))
        ]
        return LISTENING_STUDY.check(pl.DataFrame(rows, schema=LISTENING_STUDY.empty().schema))

    def to_json(self) -> str:
        """The design file. It names the conditions: it is for the researcher, never for the page."""
        return json.dumps({"hash": self.hash, **self._content()}, ensure_ascii=False, separators=(",", ":"))

    def _content(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "facts": dict(self.facts),
            "trials": [asdict(trial) for trial in self.trials],
            "forms": self.forms,
        }


def read_design(text: str) -> Design:
    """The design that `to_json` wrote.

    Raises:
        StudyError: it is not a design, is of another version, or was changed.
    """
    try:
        content = json.loads(text)
        if content["version"] != VERSION:
            raise StudyError(f"it has version {content['version']}, and this program reads {VERSION}")
        design = Design(
            facts=content["facts"],
            trials=tuple(
                Trial(
                    **{
                        **trial,
                        "options": tuple(
                            Option(**{**option, "tied_with": tuple(option["tied_with"])})
                            for option in trial["options"]
                        ),
                    }
                )
                for trial in content["trials"]
            ),
            forms=tuple(
                tuple((trial_id, tuple(screen)) for trial_id, screen in form) for form in content["forms"]
            ),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise StudyError(f"it is not a design of a listening study ({error!r})") from None
    if design.hash != content["hash"]:
        raise StudyError(f"it was changed: its content has the hash {design.hash}, not {content['hash']}")
    return design


def draw_design(
    choices: pl.DataFrame,
    music_clips: pl.DataFrame,
    images: pl.DataFrame,
    splits: Mapping[str, str | None],
    *,
    seed: int,
    clips: int,
    trials: int,
    facts: Mapping[str, Any],
) -> Design:
    """Draw clips, images, orders, attention checks and practice.

    Clips are spread over the emotions as evenly as possible. Within an emotion those without a tie come
    first, then those that the adapter was tested on, then a random draw; each recording gives one clip.
    Attention checks and practice use clips of other recordings, if there are any. Every form shows
    each emotion and each clip about equally often, and each condition equally often in each place
    (once in every four trials).

    Args:
        choices: TOP_IMAGES, `RANKS_NEEDED` ranks or as many as there are.
        music_clips: MUSIC_CLIPS rows of these clips.
        images: IMAGES rows.
        splits: clip id → split in the adapter's training.
        seed: of every draw.
        clips: clips in the whole study; fewer where there are no more.
        trials: trials of a participant; fewer where the study has no more clips.
        facts: what else belongs to the design, such as alpha and the network.

    Raises:
        StudyError: fewer than four images, or no clip on which the systems can differ.
    """
    rng = np.random.default_rng([seed, 8])
    all_images = images["image_id"].sort().to_list()
    if len(all_images) < len(CONDITIONS):
        raise StudyError(
            f"a trial shows {len(CONDITIONS)} images, and there are {len(all_images)}: add images"
        )
    offered: dict[str, dict[str, list[str]]] = {}
    for clip_id, system, image_id in choices.sort("rank").select("clip_id", "system", "image_id").rows():
        offered.setdefault(clip_id, {}).setdefault(system, []).append(image_id)
    emotion_of = dict(music_clips.select("clip_id", "emotion").iter_rows())
    source_of = dict(
        music_clips.select("clip_id", pl.coalesce("source_id", "clip_id").alias("source")).iter_rows()
    )
    usable = sorted(clip for clip in offered if _can_differ(offered[clip]))
    if not usable:
        raise StudyError(
            "there is no clip for which the systems have different images to show: "
            "add music and images, or raise the setting candidates"
        )
    pool = _spread(usable, emotion_of, source_of, offered, splits, clips, rng)
    heard = {source_of[clip] for clip in pool}
    left = [clip for clip in sorted(offered) if source_of[clip] not in heard] or sorted(offered)
    drawn = [
        *(_Drawn("trial", clip, _pick_images(offered[clip], all_images, rng)) for clip in pool),
        *_checks_and_practice(left, all_images, rng),
    ]
    clip_content = dict(music_clips.select("clip_id", "content_hash").iter_rows())
    image_content = dict(images.select("image_id", "content_hash").iter_rows())
    content = _digest(
        [[clip_content[one.clip_id], *(image_content[image] for image, *_ in one.options)] for one in drawn]
    )
    salt = _digest([seed, dict(facts), content, [asdict(one) for one in drawn]])
    made = [
        _identified(one, emotion_of[one.clip_id], splits.get(one.clip_id), f"{salt}/{number}")
        for number, one in enumerate(drawn)
    ]
    counted = [trial for trial in made if trial.kind == "trial"]
    return Design(
        facts={
            **facts,
            "seed": seed,
            "conditions": list(CONDITIONS),
            "tie_rule": TIE_RULE,
            "clips": len(offered),
            "clips_that_cannot_differ": len(offered) - len(usable),
            "ties": _count_ties(offered),
            "trials_of_a_participant": min(trials, len(counted)),
            "content": content,
        },
        trials=tuple(made),
        forms=tuple(_forms(counted, min(trials, len(counted)), rng)),
    )


@dataclass(frozen=True)
class _Drawn:
    kind: TrialKind
    clip_id: str
    options: list[tuple[str, str | None, int, tuple[str, ...]]]
    """Of each option: image, condition, rank, tied with."""
    wanted: int | None = None


def _ties(offered: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """The pairs of systems that show the same image first."""
    return [(a, b) for a, b in itertools.combinations(SYSTEMS, 2) if offered[a][0] == offered[b][0]]


def _can_differ(offered: Mapping[str, Sequence[str]]) -> bool:
    """Whether the systems find different images, whatever order they take them in.

    Each needs as many images as there are systems, or images that no other might take.
    """
    for system in SYSTEMS:
        mine = offered.get(system, [])
        others = {image for other in SYSTEMS if other != system for image in offered.get(other, [])}
        if not mine or (len(mine) < len(SYSTEMS) and set(mine) <= others):
            return False
    return True


def _spread(
    clips: Sequence[str],
    emotion_of: Mapping[str, str],
    source_of: Mapping[str, str],
    offered: Mapping[str, Mapping[str, Sequence[str]]],
    splits: Mapping[str, str | None],
    wanted: int,
    rng: np.random.Generator,
) -> list[str]:
    """Clips of different recordings, taking emotions in turn, each emotion's best first."""
    lot = {clip: place for place, clip in enumerate(rng.permutation(np.array(clips, dtype=object)))}
    queues: dict[str, list[str]] = {}
    sources: set[str] = set()
    for clip in sorted(clips, key=lambda c: (bool(_ties(offered[c])), splits.get(c) != "test", lot[c])):
        if source_of[clip] not in sources:
            sources.add(source_of[clip])
            queues.setdefault(emotion_of[clip], []).append(clip)
    turns = [queues[emotion] for emotion in rng.permutation(np.array(sorted(queues), dtype=object))]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*turns))
    return list(itertools.islice((clip for clip in in_turn if clip is not None), wanted))


def _pick_images(
    offered: Mapping[str, Sequence[str]], all_images: Sequence[str], rng: np.random.Generator
) -> list[tuple[str, str | None, int, tuple[str, ...]]]:
    ties = _ties(offered)
    taken: dict[str, tuple[str, int]] = {}
    for place in rng.permutation(len(SYSTEMS)):
        system = SYSTEMS[place]
        used = {image for image, _ in taken.values()}
        taken[system] = next(
            (image, rank) for rank, image in enumerate(offered[system], start=1) if image not in used
        )
    used = {image for image, _ in taken.values()}
    left = [image for image in all_images if image not in used]
    options: list[tuple[str, str | None, int, tuple[str, ...]]] = []
    for system in SYSTEMS:
        same = tuple(b if a == system else a for a, b in ties if system in (a, b))
        options.append((taken[system][0], system, taken[system][1], same))
    return [*options, (left[int(rng.integers(len(left)))], RANDOM, 1, ())]


def _checks_and_practice(
    clips: Sequence[str], all_images: Sequence[str], rng: np.random.Generator
) -> list[_Drawn]:
    """Trials that do not count."""
    check: TrialKind = "check"
    practice: TrialKind = "practice"
    kinds = [check] * CHECKS + [practice] * PRACTICE
    order = itertools.cycle(rng.permutation(np.array(clips, dtype=object)))
    places = rng.permutation(len(CONDITIONS)) + 1
    made = []
    for number, (kind, clip) in enumerate(zip(kinds, order, strict=False)):
        shown = rng.choice(np.array(all_images, dtype=object), len(CONDITIONS), replace=False)
        wanted = int(places[number % len(places)]) if kind == "check" else None
        made.append(_Drawn(kind, str(clip), [(str(image), None, 1, ()) for image in shown], wanted))
    return made


def _identified(drawn: _Drawn, emotion: str, split: str | None, salt: str) -> Trial:
    """The trial with opaque ids; its options are sorted by them, so nothing reveals a condition."""
    name = _digest([salt, drawn.clip_id])[:12]
    options = [
        Option(_digest([salt, name, image, condition])[:12], image, condition, rank, tied_with)
        for image, condition, rank, tied_with in drawn.options
    ]
    options.sort(key=lambda option: option.option_id)
    return Trial(name, drawn.kind, drawn.clip_id, emotion, split, tuple(options), drawn.wanted)


def _forms(
    trials: Sequence[Trial], length: int, rng: np.random.Generator
) -> list[tuple[tuple[str, Screen], ...]]:
    """Of each form, its trials: the least shown so far, then of the emotion it has least, then by lot."""
    shown = np.zeros(len(trials), dtype=np.int64)
    places = [{option.condition: place for place, option in enumerate(trial.options)} for trial in trials]
    forms = []
    for _ in range(FORMS):
        emotions: Counter[str] = Counter()
        lot = rng.permutation(len(trials))
        # Those shown equally often, from the least on; in each, a queue by lot for each emotion.
        left: list[dict[str, deque[int]]] = []
        reached = -1
        for number in np.lexsort((lot, shown)):
            if shown[number] > reached:
                reached = int(shown[number])
                left.append({})
            left[-1].setdefault(trials[number].emotion, deque()).append(int(number))
        form: list[tuple[str, Screen]] = []
        while len(form) < length:
            if len(form) % len(CONDITIONS) == 0:
                base = [CONDITIONS[place] for place in rng.permutation(len(CONDITIONS))]
                turns = rng.permutation(len(CONDITIONS))
            queues = left[0]
            emotion = min(queues, key=lambda name: (emotions[name], lot[queues[name][0]]))
            number = queues[emotion].popleft()
            if not queues[emotion]:
                del queues[emotion]
            if not queues:
                left.pop(0)
            shown[number] += 1
            emotions[emotion] += 1
            turn = int(turns[len(form) % len(CONDITIONS)])
            order = base[turn:] + base[:turn]
            form.append((trials[number].trial_id, tuple(places[number][condition] for condition in order)))
        forms.append(tuple(form))
    return forms


def _count_ties(offered: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, int]:
    """How many clips have a tie: for each two systems, and for any two."""
    counts = {f"{a} = {b}": 0 for a, b in itertools.combinations(SYSTEMS, 2)} | {"any": 0}
    for of_clip in offered.values():
        if any(not of_clip.get(system) for system in SYSTEMS):
            continue
        ties = _ties(of_clip)
        counts["any"] += bool(ties)
        for a, b in ties:
            counts[f"{a} = {b}"] += 1
    return counts


def _digest(content: object) -> str:
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
