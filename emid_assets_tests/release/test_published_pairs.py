"""The published pairs beside ours, against pairs chosen by the matching itself."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from emid_assets.matching.frames import fused_pairs_frame, similarity_frame, va_distance_frame
from emid_assets.media.lake_tables import LakeTables
from emid_assets.release.published_pairs import PairsFileError, compare, read_published_pairs
from emid_assets.store.schemas import PUBLISHED_PAIRS
from emid_assets_tests.small_lake import FORMULA, make_lake

K, M, PUBLISHED_ALPHA = 20, 3, 0.35


@pytest.fixture(scope="module")
def lake() -> LakeTables:
    return make_lake()


@pytest.fixture(scope="module")
def frames(lake: LakeTables) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """S, E, and pairs that somebody has published: those of another alpha, and one with an unknown image."""
    similarity = similarity_frame(lake.music_embeddings, lake.image_embeddings, K)
    distances = va_distance_frame(similarity, lake.music_va, lake.image_va, FORMULA)
    published = fused_pairs_frame(
        similarity,
        distances,
        replace(FORMULA, alpha=PUBLISHED_ALPHA, images_per_clip=M, rescaling="candidate_minmax"),
    )
    unknown = published.head(1).with_columns(image_id=pl.lit("nowhere.jpg"), rank=pl.lit(4, pl.Int32))
    return (
        similarity,
        distances,
        PUBLISHED_PAIRS.check(pl.concat([published, unknown]).select(list(PUBLISHED_PAIRS.columns))),
    )


def test_most_agree_at_the_alpha_that_made_the_published_pairs(
    lake: LakeTables,
    frames: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame],
) -> None:
    similarity, distances, published = frames
    ours = fused_pairs_frame(
        similarity, distances, replace(FORMULA, alpha=0.6, images_per_clip=M, rescaling="candidate_minmax")
    )
    tables = replace(lake, similarity_matrix=similarity, va_distances=distances, fused_pairs=ours)
    agreement = compare(published, tables, ["candidate_minmax", "raw"])
    assert agreement is not None
    assert agreement.published == published.height
    assert agreement.comparable == agreement.reachable == published.height - 1
    both = set(ours.select("clip_id", "image_id").iter_rows()) & set(
        published.select("clip_id", "image_id").iter_rows()
    )
    assert agreement.agree == len(both)
    assert agreement.by_chance == pytest.approx((published.height - 1) * M / K)
    best = {rescaling: (alpha, agree) for rescaling, alpha, agree in agreement.best_of_each()}
    assert best["candidate_minmax"] == (PUBLISHED_ALPHA, published.height - 1)
    for rescaling, alpha in (("candidate_minmax", 0.8), ("raw", 0.6)):
        other = fused_pairs_frame(
            similarity, distances, replace(FORMULA, alpha=alpha, images_per_clip=M, rescaling=rescaling)
        )
        expected = other.join(published, on=["clip_id", "image_id"], how="semi").height
        row = agreement.by_alpha.filter(rescaling=rescaling, alpha=alpha)
        assert row["agree"].to_list() == [expected]
    rows = agreement.rows()
    assert rows.filter(system="candidate_minmax", metric="alpha_of_most")["value"][0] == PUBLISHED_ALPHA
    assert rows.filter(metric="agree_at_alpha_0.60", system="candidate_minmax")["value"][0] == len(both)
    assert not rows.select("system", "metric").is_duplicated().any()


def test_what_is_published_about_other_media_compares_to_nothing(
    lake: LakeTables,
    frames: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame],
) -> None:
    similarity, distances, published = frames
    ours = fused_pairs_frame(
        similarity, distances, replace(FORMULA, alpha=0.6, images_per_clip=M, rescaling="raw")
    )
    tables = replace(lake, similarity_matrix=similarity, va_distances=distances, fused_pairs=ours)
    for others in (published.clear(), published.with_columns(clip_id=pl.lit("elsewhere"))):
        assert compare(others, tables, ["raw"]) is None


def test_the_file_of_pairs_may_be_absent_and_may_not_be_wrong(tmp_path: Path) -> None:
    assert read_published_pairs(tmp_path).equals(PUBLISHED_PAIRS.empty())
    path = tmp_path / "pairs.csv"
    path.write_text("clip_id,image_id,rank,score\n007,b,2,.5\n007,a,1,.6\n")
    assert read_published_pairs(tmp_path).rows() == [("007", "a", 1), ("007", "b", 2)]
    for text, message in (
        ("clip,image\nx,y\n", "not a CSV with the columns clip_id, image_id, rank"),
        ("clip_id,image_id,rank\nx,y,first\n", "whole numbers as rank"),
        ("clip_id,image_id,rank\nx,y,1\nx,y,2\n", "clip x has image y twice"),
        ("", "not a CSV"),
        ("clip_id,image_id,rank\na,b,0\n", "a rank of clip a is blank or below 1"),
    ):
        path.write_text(text)
        with pytest.raises(PairsFileError, match=message):
            read_published_pairs(tmp_path)
