"""Which clips are of one source, against plain merging of pairs."""

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from emid_assets.affect.ratings import labels_of
from emid_assets.media.sources import ClipFacts, sources_of

LABELS = [labels_of(None, ",".join([str(value)] * 11)) for value in (1, 2, 3)]


@st.composite
def clips(draw: st.DrawFn) -> list[ClipFacts]:
    count = draw(st.integers(0, 8))
    return [
        ClipFacts(
            clip_id=f"clip {number}",
            given=draw(st.sampled_from([None, None, "tape", "other tape", "clip 0", "clip 1"])),
            is_original=draw(st.booleans()),
            recording=draw(st.sampled_from(["r1", "r2", "r3", "r4", f"own {number}"])),
            labels=draw(st.sampled_from([None, *LABELS])),
            is_whole=draw(st.booleans()),
        )
        for number in range(count)
    ]


def of_one_source(one: ClipFacts, other: ClipFacts, every: list[ClipFacts]) -> bool:
    """Whether two clips are of one source by themselves, without a third between them."""
    if one.recording == other.recording:
        return True
    if one.given is not None and one.given == other.given:
        return True
    for original, cut in ((one, other), (other, one)):
        if original.given is None and original.clip_id == cut.given:
            return True
    alike = [clip for clip in every if clip.labels == one.labels]
    return one.labels is not None and other in alike and any(clip.given is None for clip in alike)


@settings(max_examples=150, deadline=None)
@given(clips(), st.randoms(use_true_random=False))
def test_sources_are_the_groups_that_merging_pairs_gives(every: list[ClipFacts], lot: random.Random) -> None:
    group = {clip.clip_id: {clip.clip_id} for clip in every}
    for one, other in itertools.combinations(every, 2):
        if of_one_source(one, other, every):
            merged = group[one.clip_id] | group[other.clip_id]
            group |= dict.fromkeys(merged, merged)
    found = dict(zip((clip.clip_id for clip in every), sources_of(every), strict=True))
    facts = {clip.clip_id: clip for clip in every}
    for name, members in group.items():
        told = [facts[member] for member in members]
        lost = all(
            not clip.is_original and clip.given is None and clip.labels is None and clip.is_whole
            for clip in told
        )
        assert (found[name] is None) is lost
        assert {found[member] for member in members} == {found[name]}
        if not lost:
            of_source = {other for other, source in found.items() if source == found[name]}
            assert of_source == members
    shuffled = lot.sample(every, len(every))
    again = dict(zip((clip.clip_id for clip in shuffled), sources_of(shuffled), strict=True))
    assert again == found
