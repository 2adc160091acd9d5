"""The page: what it says, that it is sound HTML, stands alone, and escapes whatever names it shows."""

import itertools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from emid_assets.media.lake_tables import LakeTables
from emid_assets.report.page import BuildFacts, EncoderFacts, GalleryLimits, render_page
from emid_assets.store.schemas import TABLES
from emid_assets_tests.report.conftest import ALPHA, M, clips_of, frame, images_of, measured, studied, trained
from emid_assets_tests.report.reading import Page, read

MakeTables = Callable[..., LakeTables]
HOSTILE = "</script><script>pwned()</script>\"'><img src=x onerror=pwned()>{{ 7*7 }}&amp;"


@pytest.fixture(scope="module")
def html(make_tables: MakeTables, build_facts: BuildFacts) -> str:
    return render_page(make_tables(), build_facts)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return read(html)


@pytest.fixture(scope="module")
def hostile(make_tables: MakeTables, sample_media: Path) -> tuple[str, Page]:
    """A page on which every word that comes from outside tries to be markup."""
    clips, images = clips_of(sample_media), images_of(sample_media)
    words = pl.lit(HOSTILE)
    tables = make_tables(
        music_clips=clips.with_columns(
            pl.concat_str("clip_id", words).alias("clip_id"), words.alias("author"), words.alias("licence"),
            pl.concat_str(words, pl.lit(" hint")).alias("label_source"),
            pl.lit([{"feeling": HOSTILE, "percent": 9.0}], clips.schema["feelings"]).alias("feelings"),
        ),
        images=images.with_columns(
            pl.concat_str("image_id", words).alias("image_id"), words.alias("caption"),
            words.alias("licence"), pl.concat_str("file", words).alias("file"),
        ),
        rejected_media=frame(
            "rejected_media", [{"kind": HOSTILE, "item_id": "i", "file": HOSTILE, "reason": HOSTILE}]
        ),
        trained_adapter=trained(HOSTILE, epochs=2),
        tuning_trials=studied(HOSTILE),
        retrieval_metrics=measured(**{HOSTILE: 0.5}).with_columns(section=pl.concat_str("section", words)),
    )  # fmt: skip
    build = BuildFacts(
        settings={"alpha": ALPHA, HOSTILE: HOSTILE, "semantic_rescaling": HOSTILE, "va_alignment": HOSTILE},
        meanings={HOSTILE: HOSTILE},
        encoder=EncoderFacts(HOSTILE, HOSTILE, 4, HOSTILE),
        media=sample_media,
    )
    html = render_page(tables, build, GalleryLimits(clips=2))
    return html, read(html)


def test_the_headline_says_what_was_built(page: Page) -> None:
    [title] = page.all("h1")
    assert title.text == "Evaluation report"
    tiles = {
        " ".join(name.text.split()): number.text
        for name, number in zip(page.all("dt")[:6], page.all("dd")[:6], strict=True)
    }
    assert tiles == {
        "music clips": "22", "images": "27", "pairs": "66", "of 13 music emotions": "12",
        "of 8 image emotions": "8", "media rejected": "3",
    }  # fmt: skip


def test_the_weak_encoder_and_the_hinted_labels_are_warned_of(page: Page) -> None:
    warnings = [" ".join(element.text.split()) for element in page.with_class("warning")]
    assert len(warnings) == 2
    assert warnings[0].startswith("Weak encoder.")
    assert "22 of 22 clips are hints, not human ratings (title hint" in warnings[1]


def test_the_tables_by_emotion_are_the_figures_numbers(page: Page, make_tables: MakeTables) -> None:
    pairs = make_tables().fused_pairs
    tables = [table for table in page.all("table") if "(rows) and image tag" in table.text]
    assert ["α = 0.6" in tables[0].text, "α = 1" in tables[1].text] == [True, True]
    for table in tables:
        assert table.text.split()[-1] == str(pairs.height)
        assert "H erotic" in table.text
    captions = [element.text for element in page.all("caption")]
    assert len(captions) == len(page.all("table"))


def test_the_use_of_the_images_is_told_with_the_image_that_most_pairs_have(
    page: Page, make_tables: MakeTables
) -> None:
    used = Counter(make_tables().fused_pairs["image_id"])
    most = max(used.values())
    first = min(image for image, count in used.items() if count == most)
    texts = [" ".join(paragraph.text.split()) for paragraph in page.all("p")]
    told = f"{len(used)} of 27 images are in a pair; the most used, images/{first}, is in {most}. There is no"
    assert any(text.startswith(told) for text in texts)
    [table] = [table for table in page.all("table") if "How evenly" in table.text]
    assert f"chosen, α = 0.6 {100 * len(used) / 27:.0f} % {most} " in " ".join(table.text.split())


def test_expanded_clips_are_told_apart_by_where_they_come_from(
    make_tables: MakeTables, build_facts: BuildFacts, sample_media: Path
) -> None:
    clips = clips_of(sample_media).with_row_index("place")
    clips = clips.with_columns(is_original_clip=pl.col("place") >= 5).drop("place")
    section = [
        " ".join(part.text.split())
        for part in read(render_page(make_tables(music_clips=clips, joined_windows=1), build_facts)).all(
            "section"
        )
        if part.text.strip().startswith("Original and expanded clips")
    ]
    assert "1 window of the source recordings joined as expanded clips" in section[0]
    assert (
        "4 expanded clips are from the table of the media folder. 17 original clips, 22 in all." in section[0]
    )


def test_rejected_media_are_counted_by_reason_and_listed(page: Page) -> None:
    rows = [" ".join(row.text.split()) for row in page.all("tr")]
    for expected in (
        "music audio is empty 2",
        "image missing from the disk 1",
        "c.png missing from the disk",
    ):
        assert expected in rows


def test_settings_and_the_encoders_licence_are_shown(page: Page) -> None:
    rows = [" ".join(row.text.split()) for row in page.all("tr")]
    assert "alpha 0.6 Weight of the semantic term." in rows
    assert "licence of the weights Apache-2.0 and MIT" in rows


def test_metrics_stand_with_their_direction_and_only_methods_compete(page: Page) -> None:
    [table] = [table for table in page.all("table") if "by system" in table.text]
    rows = [" ".join(row.text.split()) for row in page.all("tr") if row.text in table.text]
    assert "metric bmf semantic structured random oracle" in rows
    assert "↑ precision@10, higher is better 0.400 0.300 0.350 0.100 0.600" in rows
    assert "↓ VA distance@10, lower is better 0.600 0.700 0.650 0.900 0.400" in rows
    assert [cell.text for cell in page.with_class("best")] == [
        "0.400",
        "0.440",
        "0.480",
        "0.520",
        "0.560",
        "0.600",
        "0.600",
    ]
    assert "Means over 3 clips." in " ".join(element.text for element in page.all("p"))


def test_the_gallery_has_a_player_and_m_images_with_scores_for_each_clip(
    page: Page, make_tables: MakeTables
) -> None:
    cards = page.with_class("clip")
    players = page.all("audio")
    pictures = page.all("img")
    assert len(cards) == len(players) == 22
    assert len(pictures) == 22 * M
    assert all(player.attributes["src"].startswith("data:audio/mpeg;base64,") for player in players)
    assert all(picture.attributes["src"].startswith("data:image/jpeg;base64,") for picture in pictures)
    assert [card.attributes["data-emotion"] for card in cards] == sorted(
        (card.attributes["data-emotion"] for card in cards), key=list(dict.fromkeys(
            make_tables().music_clips.sort("genre")["emotion"])).index,
    )  # fmt: skip
    pair = make_tables().fused_pairs.filter(clip_id="20_L_03-fear.ogg", rank=1).row(0, named=True)
    [card] = [card for card in cards if "20_L_03-fear.ogg" in card.text]
    assert re.sub(r"\s+", "", card.text).find(
        f"T{pair['fused_score']:.3f}S̃{pair['rescaled_similarity']:.3f}E{pair['emotional_similarity']:.3f}"
        f"S{pair['semantic_similarity']:.3f}"
    ) > 0  # fmt: skip


def test_every_medium_in_the_gallery_is_attributed(page: Page, make_tables: MakeTables) -> None:
    tables = make_tables()
    listed = " ".join(element.text for element in page.with_class("attributions"))
    shown = set(tables.fused_pairs["image_id"])
    files = tables.images.filter(pl.col("image_id").is_in(sorted(shown)))["file"].to_list()
    for file in [*files, *tables.music_clips["file"]]:
        assert file in listed
    assert "Somebody, CC-BY-SA-3.0" in listed


def test_the_page_loads_nothing_from_anywhere(html: str, page: Page, hostile: tuple[str, Page]) -> None:
    for found in (page, hostile[1]):
        for element in found.elements:
            assert element.tag not in ("link", "iframe", "object", "embed", "base", "form")
            for name in ("src", "srcset", "poster", "data", "action", "background"):
                assert element.attributes.get(name, "data:").startswith("data:"), element
            assert element.attributes.get("href", "#").startswith(("#", "data:image/png")), element
    styles = " ".join(element.text for element in page.all("style"))
    assert not re.search(r"@import|url\(|https?:", styles)
    [policy] = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:; media-src data:;")
    assert len(html) < 15_000_000


def test_ids_are_unique_and_every_link_and_label_finds_its_target(page: Page) -> None:
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        for name in ("href", "aria-labelledby"):
            target = element.attributes.get(name, "")
            if target.startswith("#") or name == "aria-labelledby":
                assert not target or target.removeprefix("#") in ids, element


def test_the_page_can_be_read_without_seeing_it(page: Page) -> None:
    assert page.all("html")[0].attributes["lang"] == "en"
    levels = [int(element.tag[1]) for element in page.elements if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert levels.count(1) == 1
    assert all(picture.attributes["alt"] for picture in page.all("img"))
    assert all(player.attributes["aria-label"] for player in page.all("audio"))
    assert all("controls" in player.attributes for player in page.all("audio"))
    drawings = page.all("svg")
    assert len(drawings) == 2 + 2 + 1 + 2 + 2 + 1 + 1 + 22
    assert all(drawing.attributes["aria-label"] for drawing in drawings)
    assert all("scope" in cell.attributes for cell in page.all("th"))
    for region in page.all("div", role="region"):
        assert region.attributes["aria-label"]
        assert region.attributes["tabindex"] == "0"


def test_names_from_outside_never_become_markup(hostile: tuple[str, Page], html: str) -> None:
    text, found = hostile
    assert len(found.all("script")) == 1
    assert found.all("script")[0].text == read(html).all("script")[0].text
    for element in found.elements:
        assert not [name for name in element.attributes if name.startswith("on")], element
    assert "49&amp;" not in text
    body = " ".join(found.all("body")[0].text.split())
    # Clip title, feelings, label source, licences, captions, reasons, network, system, settings …
    assert body.count(HOSTILE) > 30
    assert any(HOSTILE in player.attributes["aria-label"] for player in found.all("audio"))


def test_the_setting_that_the_page_needs_is_asked_for_by_name(
    make_tables: MakeTables, build_facts: BuildFacts
) -> None:
    with pytest.raises(ValueError, match="setting alpha as a number, got None"):
        render_page(make_tables(), replace(build_facts, settings={"images_per_clip": 3}))


def test_means_stand_with_their_intervals_and_a_protocol_without_enough_clips_says_so(
    make_tables: MakeTables, build_facts: BuildFacts
) -> None:
    cold = measured(bmf=0.4).with_columns(
        low=pl.when(pl.col("metric") == "ndcg_at_10").then(pl.lit(0.11)),
        high=pl.when(pl.col("metric") == "ndcg_at_10").then(pl.lit(0.73)),
    )
    few = [
        {"section": "retrieval_warm", "system": "not measured", "metric": name, "value": value}
        for name, value in (("queries", 14.0), ("queries_needed", 30.0))
    ]
    metrics = pl.concat([cold, frame("retrieval_metrics", few)])
    html = render_page(make_tables(retrieval_metrics=metrics), build_facts)
    body = " ".join(read(html).all("body")[0].text.split())
    assert "0.11 to 0.73" in body
    assert "95 % interval had other recordings been drawn" in body
    assert "Known clips: a pair of each was held out" in body
    assert "Not measured: there are 14 clips for it, and at least 30 are needed." in body


def test_the_sweep_names_the_point_that_labels_choose_and_the_study_its_best_trial(
    page: Page, html: str, make_tables: MakeTables, build_facts: BuildFacts
) -> None:
    body = " ".join(page.all("body")[0].text.split())
    assert "They fit best at α = 0.4, m = 3, K = 12: 90 %, with 25 % of the candidates in use." in body
    assert "5 trials; the best, number 2, reached NDCG@10 0.4500" in body
    assert "with learning_rate 0.003." in body
    dependent = make_tables(alpha_sweep=make_tables().alpha_sweep.with_columns(independent_labels=0.75))
    body = " ".join(read(render_page(dependent, build_facts)).all("body")[0].text.split())
    assert "Labels cannot judge α here, and no point is recommended: 25% of the clips and images" in body
    assert "fit best" not in body
    empty = {name: TABLES[name].empty() for name in ("alpha_sweep", "tuning_trials")}
    without = render_page(make_tables(**empty), build_facts)
    assert without.count("<svg") == html.count("<svg") - 3
    assert "Other values of" not in without
    assert "Study of" not in without
