"""Finding the images for a clip, or the clips for an image, that the data set has never seen.

Belongs here: exact search over new embeddings and S, E and T beside each result. Encoding the file
is `encoders`' business; printing is the command line's.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emid_assets.adapters import AdapterError
from emid_assets.adapters.trained_adapter import TrainedAdapter
from emid_assets.matching.fusion import Formula, fuse_terms, rescale
from emid_assets.matching.order import top_k
from emid_assets.ranking.metrics import Floats

RESULT_COLUMNS = {
    "rank": pl.Int32,
    "item_id": pl.String,
    "score": pl.Float64,
    "semantic_similarity": pl.Float64,
    "emotional_similarity": pl.Float64,
    "fused_score": pl.Float64,
}


POINT = ["valence", "arousal", "valence_sd", "arousal_sd"]


@dataclass(frozen=True)
class Catalogue:
    """What is searched: all images, or all clips, in the order of `ids`.

    Attributes:
        ids: n ids, ascending.
        adapted: (n, e) float32 new embeddings.
        frozen: (n, d) float32 embeddings as the encoder gave them (unit × scale).
        points: (n, 4) float64 aligned valence and arousal, and their standard deviations.
    """

    ids: pl.Series
    adapted: NDArray[np.float32]
    frozen: NDArray[np.float32]
    points: NDArray[np.float64]

    @property
    def va(self) -> NDArray[np.float64]:
        """(n, 2) valence and arousal alone."""
        return self.points[:, :2]

    @classmethod
    def of_frames(
        cls, adapted: pl.DataFrame, embeddings: pl.DataFrame, va: pl.DataFrame, kind: str
    ) -> "Catalogue":
        """From the lake's tables.

        Args:
            adapted: ADAPTED_EMBEDDINGS of **one** network.
            embeddings: IMAGE_EMBEDDINGS or MUSIC_EMBEDDINGS, all partitions.
            va: image_id or clip_id, with valence, arousal, valence_sd and arousal_sd **aligned to [-1, 1]²**.
            kind: `image` or `music`.

        Raises:
            AdapterError: more than one network, or an item of `embeddings` that another table lacks.
        """
        networks = adapted["network"].unique().to_list()
        if len(networks) != 1:
            raise AdapterError(f"one network can be searched at a time, not {len(networks)}: {networks}")
        key = "image_id" if kind == "image" else "clip_id"
        rows = (
            embeddings.select(key, "embedding", "scale")
            .join(
                adapted.filter(kind=kind).select(pl.col("item_id").alias(key), new=pl.col("embedding")),
                on=key, how="left",
            )
            .join(va.select(key, *POINT), on=key, how="left")
            .sort(key)
        )  # fmt: skip
        missing = rows.filter(pl.col("new").is_null() | pl.col("valence").is_null())
        if not missing.is_empty():
            raise AdapterError(
                f"{key} {missing[key][0]!r} has no adapted embedding or no valence and arousal: "
                "run `emid build` again"
            )
        unit = rows["embedding"].to_numpy()
        return cls(
            ids=rows[key],
            adapted=np.ascontiguousarray(rows["new"].to_numpy()),
            frozen=np.ascontiguousarray(unit * rows["scale"].to_numpy()[:, None]),
            points=rows.select(POINT).to_numpy().astype(np.float64),
        )


def search_images(
    adapter: TrainedAdapter,
    embedding: NDArray[np.float32],
    scale: float,
    images: Catalogue,
    top: int,
    formula: Formula,
    va: NDArray[np.float64] | None = None,
) -> pl.DataFrame:
    """The images for a clip, by the network's new embeddings.

    Args:
        adapter: the network.
        embedding: (d,) unit embedding of the clip.
        scale: norm that the encoder gave it.
        images: all images.
        top: how many results.
        formula: of T, among the clip's K candidates.
        va: (2,) aligned VA of the clip; if None, it is predicted from the embedding.

    Returns:
        RESULT_COLUMNS by rank. `score` is the inner product that ranks, `semantic_similarity` S
        over all images, `emotional_similarity` E, `fused_score` T with S̃ among the clip's K
        candidates (a result that is not among them has the S̃ of the weakest, and with the method
        `calibrated` 0). The clip's own valence and arousal count as certain.

    Raises:
        AdapterError: the embedding is of another encoder.
    """
    frozen = scale * (images.frozen @ embedding)
    query = adapter.embed_clip(embedding, frozen, images.frozen, images.va)
    if va is None:
        va = adapter.music_reader.read(adapter.projection.music(embedding[None]))[0].astype(np.float64)
    return _results(images, images.adapted @ query, frozen, top, formula, va)


def search_music(
    adapter: TrainedAdapter,
    embedding: NDArray[np.float32],
    scale: float,
    music: Catalogue,
    top: int,
    formula: Formula,
    va: NDArray[np.float64] | None = None,
) -> pl.DataFrame:
    """The clips for an image; arguments and result as `search_images`, with S over all clips."""
    query = adapter.embed_images(embedding[None], None if va is None else va[None])
    if va is None:
        va = adapter.image_reader.read(adapter.projection.images(embedding[None]))[0].astype(np.float64)
    return _results(music, music.adapted @ query[0], scale * (music.frozen @ embedding), top, formula, va)


def _results(
    catalogue: Catalogue, scores: Floats, frozen: Floats, top: int, formula: Formula, va: NDArray[np.float64]
) -> pl.DataFrame:
    found = top_k(scores[None], top)[0]
    found = found[found >= 0]
    highest = float(frozen.max())
    log_sum_exp = highest + np.log(np.exp(frozen.astype(np.float64) - highest).sum())
    S = np.exp(frozen[found].astype(np.float64) - log_sum_exp)
    candidates = top_k(frozen[None], min(formula.candidates, len(frozen)))
    # The results are rescaled beside the candidates; one that is not a candidate counts as the weakest.
    weakest = frozen[candidates[0, -1]]
    beside = np.concatenate([frozen[candidates[0]], np.maximum(frozen[found], weakest)]).astype(np.float32)
    rescaled = rescale(beside[None], np.array([log_sum_exp]), formula.rescaling)[0, -len(found) :]
    if formula.rescaling == "candidate_softmax":
        rescaled = np.exp(
            beside[-len(found) :] - np.logaddexp.reduce(frozen[candidates[0]].astype(np.float64))
        )
    if formula.of_all_images:
        rescaled = np.where(frozen[found] >= weakest, rescaled, 0.0)
    E = formula.emotional(va[None], catalogue.points[found])
    fused = fuse_terms(rescaled, E, formula.alpha)
    # Lists, since polars imports numpy.ma for an array: 15 ms in a process that runs one query.
    return pl.DataFrame(
        {
            "rank": list(range(1, len(found) + 1)),
            "item_id": catalogue.ids.gather(found.tolist()),
            "score": scores[found].tolist(),
            "semantic_similarity": S.tolist(),
            "emotional_similarity": E.tolist(),
            "fused_score": fused.tolist(),
        },
        schema=RESULT_COLUMNS,
    )
