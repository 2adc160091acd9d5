"""The published pairs beside ours: reading them, and how many agree at which alpha.

Belongs here: `pairs.csv` of a media folder, and the comparison. Choosing pairs again at another alpha
is a re-sort of stored candidates, which `evaluation.sweep` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from emid_assets.media.lake_tables import LakeTables
from emid_assets.release.emid_import import PAIRS_FILE
from emid_assets.store.schemas import EVALUATION_REPORT, PUBLISHED_AGREEMENT, PUBLISHED_PAIRS

SECTION = "published_pairs"
ALPHAS = tuple(step / 20 for step in range(21))


class PairsFileError(ValueError):
    """pairs.csv cannot be read; the message names the file and what to do."""


def read_published_pairs(media: Path) -> pl.DataFrame:
    """`pairs.csv` of a media folder as PUBLISHED_PAIRS, by clip and rank; no rows where there is none.

    Raises:
        PairsFileError: not a CSV with the columns clip_id, image_id and rank; a rank below 1; a pair twice.
    """
    path = media / PAIRS_FILE
    if not path.exists():
        return PUBLISHED_PAIRS.empty()
    schema = PUBLISHED_PAIRS.empty().schema
    try:
        pairs = pl.read_csv(path, columns=list(schema), schema_overrides=schema)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise PairsFileError(
            f"{path} is not a CSV with the columns {', '.join(schema)}, and whole numbers as rank: {reason}"
        ) from None
    pairs = (
        PUBLISHED_PAIRS.check(pairs).drop_nulls(["clip_id", "image_id"]).sort("clip_id", "rank", "image_id")
    )
    for clip in pairs.filter(pl.col("rank").fill_null(0) < 1)["clip_id"].head(1):
        raise PairsFileError(f"{path}: a rank of clip {clip} is blank or below 1")
    twice = pairs.filter(pairs.select("clip_id", "image_id").is_duplicated())
    if twice.height:
        raise PairsFileError(f"{path}: clip {twice['clip_id'][0]} has image {twice['image_id'][0]} twice")
    return pairs


@dataclass(frozen=True)
class Agreement:
    """How the published pairs compare with ours.

    Attributes:
        published: pairs in the table.
        comparable: those whose clip and image both are in the data set; shares are of these.
        reachable: those whose image is among its clip's candidates, an upper bound at any alpha.
        agree: those that are among our pairs as they are.
        by_chance: how many would agree if each clip's pairs were drawn from its candidates.
        by_alpha: `rescaling`, `alpha`, `agree`: how many would agree at another alpha.
    """

    published: int
    comparable: int
    reachable: int
    agree: int
    by_chance: float
    by_alpha: pl.DataFrame

    def best_of_each(self) -> list[tuple[str, float, int]]:
        """For each rescaling the alpha at which most agree (the smallest of several), and how many."""
        best = self.by_alpha.sort("agree", "alpha", descending=[True, False], maintain_order=True)
        return best.unique("rescaling", keep="first", maintain_order=True).rows()

    def frame(self) -> pl.DataFrame:
        """All of it as PUBLISHED_AGREEMENT: a row for each alpha."""
        return PUBLISHED_AGREEMENT.check(
            self.by_alpha.rename({"agree": "agree_at_alpha"}).with_columns(
                pl.lit(self.published, pl.Int64).alias("published"),
                pl.lit(self.comparable, pl.Int64).alias("comparable"),
                pl.lit(self.reachable, pl.Int64).alias("among_candidates"),
                pl.lit(self.agree, pl.Int64).alias("agree"),
                pl.lit(self.by_chance, pl.Float64).alias("agree_by_chance"),
            )
        )

    @classmethod
    def of_frame(cls, frame: pl.DataFrame) -> "Agreement | None":
        """From the result of `frame`; None where nothing is published."""
        if frame.is_empty():
            return None
        facts = frame.row(0, named=True)
        return cls(
            published=facts["published"],
            comparable=facts["comparable"],
            reachable=facts["among_candidates"],
            agree=facts["agree"],
            by_chance=facts["agree_by_chance"],
            by_alpha=frame.select("rescaling", "alpha", agree="agree_at_alpha"),
        )

    def rows(self) -> pl.DataFrame:
        """All of it as EVALUATION_REPORT rows of section `published_pairs`."""
        lines: list[tuple[str, str, str, float]] = [
            (SECTION, "published", name, float(value))
            for name, value in (
                ("pairs", self.published),
                ("comparable", self.comparable),
                ("among_candidates", self.reachable),
                ("agree", self.agree),
                ("agree_by_chance", self.by_chance),
            )
        ]
        for rescaling, alpha, agree in self.best_of_each():
            lines.append((SECTION, rescaling, "alpha_of_most", alpha))
            lines.append((SECTION, rescaling, "agree_at_most", float(agree)))
        for rescaling, alpha, agree in self.by_alpha.iter_rows():
            lines.append((SECTION, rescaling, f"agree_at_alpha_{alpha:.2f}", float(agree)))
        return pl.DataFrame(lines, schema=EVALUATION_REPORT.empty().schema, orient="row")


def compare(
    published: pl.DataFrame,
    tables: LakeTables,
    rescalings: Sequence[str],
    alphas: Sequence[float] = ALPHAS,
) -> Agreement | None:
    """Our pairs beside the published ones, as they are and at other values of alpha.

    Each clip keeps as many images as our pairs have at most, at every alpha.

    Args:
        published: PUBLISHED_PAIRS.
        tables: the images and the alignment of the whole lake.
        rescalings: variants of S̃ to try.
        alphas: values of alpha to try.

    Returns:
        None where nothing is published, or none of it is about these clips and images.
    """
    fused_pairs, similarity_matrix = tables.fused_pairs, tables.similarity_matrix
    from emid_assets.evaluation.sweep import Candidates
    from emid_assets.ranking.metrics import Relevance

    known = published.filter(pl.col("image_id").is_in(tables.images["image_id"].to_list())).join(
        similarity_matrix, on="clip_id", how="semi"
    )
    if known.is_empty():
        return None
    m = int(fused_pairs.group_by("clip_id").len()["len"].max() or 0)  # type: ignore[arg-type]
    pair = ["clip_id", "image_id"]
    of_clips = similarity_matrix.join(known, on="clip_id", how="semi")
    distances = tables.va_distances.join(known, on="clip_id", how="semi")
    candidates = Candidates.of_frames(of_clips, distances)
    reachable = known.join(distances, on=pair, how="semi")
    clip_rows, image_rows = (
        reachable[column].replace_strict(ids, range(len(ids)), return_dtype=pl.Int64).to_numpy()
        for column, ids in zip(pair, (candidates.clip_ids, candidates.image_ids), strict=True)
    )
    wanted = Relevance.of_pairs(clip_rows, image_rows, len(candidates.image_ids))
    every_clip = np.arange(len(candidates.clip_ids))
    lines = []
    for rescaling in rescalings:
        for alpha in alphas:
            picks = candidates.pairs(alpha, m, candidates.by_similarity, rescaling)  # type: ignore[arg-type]
            lines.append((rescaling, alpha, int(wanted.hits(every_clip, picks).sum())))
    kept = distances.group_by("clip_id").agg(share=(m / pl.len()).clip(upper_bound=1.0))
    return Agreement(
        published=published.height,
        comparable=known.height,
        reachable=reachable.height,
        agree=known.join(fused_pairs, on=pair, how="semi").height,
        by_chance=float(reachable.join(kept, on="clip_id")["share"].sum()),
        by_alpha=pl.DataFrame(
            lines,
            schema={"rescaling": pl.String, "alpha": pl.Float64, "agree": pl.Int64},
            orient="row",
        ),
    )
