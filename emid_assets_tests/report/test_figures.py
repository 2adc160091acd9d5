"""The figures: what is in them, that they fit in one page, and that equal inputs give equal bytes."""

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTIONS
from emid_assets.evaluation.pair_statistics import overlaps, pair_counts
from emid_assets.media.va_plane import Plane
from emid_assets.report import figures, style, tables
from emid_assets_tests.report.conftest import clips_of, images_of, measured, paired, studied, swept, trained


def history(network: str = "bmf") -> pl.DataFrame:
    return trained(network).select(pl.col("history").explode()).unnest("history")


@pytest.fixture(scope="module")
def plane(sample_media: Path) -> pl.DataFrame:
    clips, images = clips_of(sample_media), images_of(sample_media)
    return tables.va_plane(clips, images, Plane.fit(clips, images, "standardize"))


@pytest.fixture(scope="module")
def counts(sample_media: Path) -> pl.DataFrame:
    clips, images = clips_of(sample_media), images_of(sample_media)
    return pair_counts(paired(clips, images)["fused_pairs"], clips, images)


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_heat_map_writes_every_count_that_is_not_zero(counts: pl.DataFrame) -> None:
    svg = style.svg(figures.pair_counts_figure(counts, "Chosen pairs"), "counts", "Pairs")
    values = [value for row in counts.select(IMAGE_EMOTION_KEYS).rows() for value in row]
    written = texts(svg)
    assert sorted(int(text) for text in written if text.isdigit()) == sorted(
        value for value in values if value
    )
    assert [text for text in written if text in IMAGE_EMOTION_KEYS] == list(IMAGE_EMOTION_KEYS)
    assert {f"{music.letter} {music.key}" for music in MUSIC_EMOTIONS} <= set(written)
    assert "Chosen pairs" in written


def test_cells_are_shaded_by_their_share_of_the_largest_count(counts: pl.DataFrame) -> None:
    shades = [
        set(
            re.findall(r"opacity: ([0-9.]+)", style.svg(figures.pair_counts_figure(counts, "", top), "c", ""))
        )
        for top in (None, 100)
    ]
    top = max(max(row) for row in counts.select(IMAGE_EMOTION_KEYS).rows())
    for found, largest in zip(shades, (top, 100), strict=True):
        assert {round(value / largest, 3) for value in range(1, top)} <= {
            round(float(text), 3) for text in found
        }


@pytest.mark.parametrize("aligned", [False, True])
def test_the_plane_names_all_thirteen_letters_and_all_eight_tags(plane: pl.DataFrame, aligned: bool) -> None:
    written = texts(style.svg(figures.va_plane_figure(plane, aligned), "plane", "Plane"))
    assert [text for text in written if re.fullmatch("[A-M]", text)] == list("ABCDEFGHIJKLM")
    assert [text for text in written if text in IMAGE_EMOTION_KEYS] == list(IMAGE_EMOTION_KEYS)


def test_the_plane_draws_every_item_where_it_is(plane: pl.DataFrame) -> None:
    drawn = {
        tuple(point)
        for cloud in figures.va_plane_figure(plane, True).axes[0].collections
        for point in cloud.get_offsets().tolist()
    }
    assert drawn == set(plane.filter(role="item").select("aligned_valence", "aligned_arousal").rows())


@pytest.mark.parametrize("aligned", [False, True])
def test_no_tag_is_written_over_another_or_over_a_letter(plane: pl.DataFrame, aligned: bool) -> None:
    figure = figures.va_plane_figure(plane, aligned)
    figure.canvas.draw()
    boxes = {
        text.get_text(): text.get_window_extent()
        for text in figure.axes[0].texts
        if text.get_text() in IMAGE_EMOTION_KEYS or re.fullmatch("[A-M]", text.get_text())
    }
    for tag in IMAGE_EMOTION_KEYS:
        for other, box in boxes.items():
            assert other == tag or not boxes[tag].overlaps(box), (tag, other)


def test_a_large_cloud_of_points_becomes_a_picture_and_stays_small(plane: pl.DataFrame) -> None:
    place = pl.int_range(30_000) / 30_000
    cloud = pl.DataFrame({"at": range(30_000)}).select(
        pl.lit("music").alias("kind"), pl.lit("item").alias("role"), pl.lit(None, pl.String).alias("name"),
        (1 + 8 * place).alias("valence"), (1 + 8 * place**2).alias("arousal"),
        (2 * place - 1).alias("aligned_valence"), (2 * place**2 - 1).alias("aligned_arousal"),
        pl.lit(1, pl.Int64).alias("items"),
    )  # fmt: skip
    svg = style.svg(figures.va_plane_figure(pl.concat([plane, cloud]), True), "plane", "Plane")
    assert len(svg) < 500_000
    assert re.search(r'href="data:image/png;base64,', svg)


def test_training_curves_show_each_metric_and_survive_missing_values() -> None:
    svg = style.svg(figures.metrics_figure("bmf", history(), 20), "metrics", "Metrics")
    assert {"precision@10", "recall@10", "MAP@10", "NDCG@10", "MRR@10", "hit rate@10"} <= set(texts(svg))
    unmeasured = history().with_columns(pl.lit(None, pl.Float64).alias("ndcg_at_10"))
    assert "<svg" in style.svg(figures.metrics_figure("bmf", unmeasured, 1), "metrics", "Metrics")
    loss = figures.loss_figure("bmf", history(), 20).axes[0].lines[0]
    assert list(loss.get_ydata()) == history()["loss"].to_list()


def test_the_comparison_draws_each_system_at_its_values() -> None:
    table = tables.metric_table(measured(bmf=0.4, random=0.1), "retrieval_test")
    figure = figures.retrieval_figure(table)
    drawn = {cloud.get_label(): cloud.get_offsets()[:, 0].tolist() for cloud in figure.axes[0].collections}
    higher = table.filter(better="higher").filter(pl.col("metric") != "queries")
    for system in ("bmf", "random"):
        assert drawn[system][: higher.height] == higher[system].to_list()


def test_the_overlap_bar_adds_up_to_the_whole(sample_media: Path) -> None:
    build = paired(clips_of(sample_media), images_of(sample_media))
    rows = overlaps(build["fused_pairs"], build["similarity_matrix"], build["va_distances"])
    bars = figures.overlap_figure(rows, 0.6).axes[0].patches
    assert sum(bar.get_width() for bar in bars) == pytest.approx(1.0)


def test_colours_become_the_themes_and_ids_carry_the_name(counts: pl.DataFrame) -> None:
    figure = figures.loss_figure("bmf", history(), 20)
    first, second = style.svg(figure, "one", "Loss"), style.svg(figure, "two", "Loss")
    assert not set(re.findall(r' id="([^"]+)"', first)) & set(re.findall(r' id="([^"]+)"', second))
    for svg, name in ((first, "one"), (second, "two")):
        ids = set(re.findall(r' id="([^"]+)"', svg))
        used = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
        assert ids == used
        assert all(identity.startswith(f"{name}-") for identity in ids)
        assert "var(--accent)" in svg
        assert "http" not in svg
        assert "<style" not in svg
    lights = {light for light, _ in style.THEME.values()}
    assert len(lights) == len(style.THEME)
    assert not lights & set(
        re.findall(r"#[0-9a-f]{6}", style.svg(figures.pair_counts_figure(counts, "T"), "c", ""))
    )


def test_names_with_markup_or_dollar_signs_stand_as_they_are() -> None:
    name = '<script>alert(1)</script> $x$ & "q"'
    svg = style.svg(figures.loss_figure(name, history(name), 20), "loss", name)
    assert "<script" not in svg
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $x$ &amp;" in svg
    assert 'aria-label="&lt;script&gt;' in svg


def test_png_and_markdown_hold_the_same_picture_for_the_web_ui(counts: pl.DataFrame) -> None:
    figure = figures.pair_counts_figure(counts, "Pairs")
    content = style.png(figure)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        assert image.width > 400
        assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    text = style.markdown_image(figure, "Pairs [all] by emotion")
    alt, encoded = re.fullmatch(r"!\[([^\]]*)\]\(data:image/png;base64,([^)]*)\)", text).groups()  # type: ignore[union-attr]
    assert alt == "Pairs all by emotion"
    assert base64.b64decode(encoded) == content
    assert len(content) < 100_000


DRAW = """
import hashlib, polars as pl
from emid_assets.report import figures, style
history = pl.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.5], "ndcg_at_10": [0.1, 0.2, 0.3]})
figure = figures.metrics_figure("bmf", history, 3)
print(hashlib.sha256(style.svg(figure, "m", "M").encode() + style.png(figure)).hexdigest())
"""


def test_another_process_with_another_hash_seed_and_style_gives_the_same_bytes() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", before + DRAW],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        ).stdout
        for environment, before in (
            ({"PYTHONHASHSEED": "1"}, ""),
            (
                {"PYTHONHASHSEED": "2", "SOURCE_DATE_EPOCH": "0"},
                "import matplotlib; matplotlib.rc('font', size=30)\n",
            ),
        )
    }
    assert len(found) == 1


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    style.png(figures.loss_figure("bmf", history(), 20))
    assert dict(matplotlib.rcParams) == before


def test_the_sweep_has_a_panel_for_each_m_and_a_line_for_each_k() -> None:
    figure = figures.sweep_figure(swept(), 0.6)
    assert [panel.get_title() for panel in figure.axes] == ["m = 1", "m = 3"]
    labels, marked = figure.axes[1].lines[:2], figure.axes[1].lines[2]
    assert [line.get_label() for line in labels] == ["K = 4", "K = 12"]
    assert max(labels[1].get_ydata()) == 0.9
    assert list(marked.get_xdata()) == [0.6, 0.6]
    overlap = figures.sweep_overlap_figure(swept().filter(images_per_clip=3), 0.6)
    assert [line.get_label() for line in overlap.axes[0].lines[:4]] == [
        "S alone, K = 4", "S alone, K = 12", "E alone, K = 4", "E alone, K = 12"
    ]  # fmt: skip


def test_a_study_shows_every_trial_that_has_a_value_and_the_best_so_far() -> None:
    [axes] = figures.tuning_figure("bmf", studied("bmf")).axes
    complete, pruned = axes.collections
    assert complete.get_offsets().tolist() == [[0, 0.3], [2, 0.45], [4, 0.4]]
    assert pruned.get_offsets().tolist() == [[1, 0.2]]
    assert axes.lines[0].get_ydata().tolist() == [0.3, 0.45, 0.45]
