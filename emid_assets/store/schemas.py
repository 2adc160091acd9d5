"""The columns of every table in the lake: one declared Polars schema each.

Belongs here: the name, type and one-line meaning of each column. Nothing that computes.
Each asset's frame is checked against its schema before it is stored (`TableSchema.check`), and the
web UI shows the meanings beside the columns.
"""

from dataclasses import dataclass

import polars as pl

from emid_assets.affect.emotions import RATINGS


class SchemaError(ValueError):
    """A frame does not have the columns that its table declares."""


@dataclass(frozen=True)
class TableSchema:
    """A table's name, what one row stands for, and its columns in order.

    `columns` maps a name to (Polars type, meaning). A bare `pl.Array` class as the type stands for
    `Array(Float32, d)` with any `d`: the encoder determines it.
    """

    name: str
    row: str
    columns: dict[str, tuple[type[pl.Array] | pl.DataType | type[pl.DataType], str]]

    def empty(self, dimension: int = 1) -> pl.DataFrame:
        """A frame with these columns and no rows; `dimension` is the embeddings' d."""
        return pl.DataFrame(
            schema={
                name: pl.Array(pl.Float32, dimension) if dtype is pl.Array else dtype
                for name, (dtype, _) in self.columns.items()
            }
        )

    def differences(self, frame: pl.DataFrame) -> list[str]:
        """Where `frame` differs from the declaration, one line each; empty if nowhere."""
        lines = [f"column {name} is missing" for name in self.columns if name not in frame.columns]
        for name, dtype in frame.schema.items():
            if name not in self.columns:
                lines.append(f"column {name} is not declared")
                continue
            declared = self.columns[name][0]
            is_embedding = isinstance(dtype, pl.Array) and dtype.inner == pl.Float32
            matches = is_embedding if declared is pl.Array else dtype == declared
            if not matches:
                lines.append(f"column {name} is {dtype}, declared {declared}")
        return lines

    def check(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return `frame` with its columns in the declared order.

        Raises:
            SchemaError: names every column that is missing, undeclared or of the wrong type.
        """
        lines = self.differences(frame)
        if lines:
            raise SchemaError(f"table {self.name}: " + "; ".join(lines))
        return frame.select(list(self.columns))


_S, _F32, _F64, _I32, _I64, _B = (
    pl.String,
    pl.Float32,
    pl.Float64,
    pl.Int32,
    pl.Int64,
    pl.Boolean,
)

FEELINGS_TYPE = pl.List(pl.Struct({"feeling": pl.String, "percent": pl.Float32}))

_UNCERTAINTY: dict[str, tuple[type[pl.Array] | pl.DataType | type[pl.DataType], str]] = {
    f"{axis}_sd": (_F64, f"standard deviation of the true {axis} around this one; null where not known")
    for axis in ("valence", "arousal")
}

MEDIA_INVENTORY = TableSchema(
    "media_inventory",
    "a media file found in the folder, or a table row without one",
    {
        "item_id": (_S, "clip or image id: the path below music/ or images/, or the table's id"),
        "kind": (_S, "music or image"),
        "file": (_S, "path below the media folder, with / between its parts"),
        "partition": (_S, "emotion key (a Cowen category or one of Mikels' eight); null if unknown"),
        "reason": (_S, "why the item cannot be used; null if it can"),
        "size_bytes": (_I64, "size of the file; null where there is none"),
        "modified_ns": (_I64, "modification time of the file in nanoseconds; null where there is none"),
        "content_hash": (_S, "sha256 of the file's bytes (and of the window, if it has one)"),
        "start_s": (_F64, "music: where the clip starts in the file, seconds"),
        "duration_s": (_F64, "music: length of the clip, seconds"),
        "sample_rate": (_I32, "music: samples per second of the file"),
        "channels": (_I32, "music: channels of the file"),
        "width": (_I32, "image: pixels across"),
        "height": (_I32, "image: pixels down"),
        "note": (_S, "music: how the encoders hear the clip, such as without a silent channel; else null"),
        "label_source": (
            _S,
            "where the label comes from: table, folder, predicted, or the user's words",
        ),
        "is_original_clip": (_B, "music: false where the row is an expanded clip of a source"),
        "source_id": (_S, "group that no split divides: a clip's source, an image's series or theme"),
        "feelings": (FEELINGS_TYPE, "music: percentages over the 28 feelings; null where unrated"),
        **{
            f"rating_{name}": (_F32, f"music: mean {name} rating, 1 to 9; null where missing")
            for name in RATINGS
        },
        "valence": (_F64, "valence on the modality's own scale: music 1 to 9, image 0 to 1"),
        "arousal": (_F64, "arousal on the modality's own scale: music 1 to 9, image 0 to 1"),
        "va_source": (_S, "ratings or category_mean (music), measured or tag (image), predicted, model:NAME"),
        **_UNCERTAINTY,
        "caption": (_S, "image: the table's text, or null"),
        "caption_source": (_S, "image: table, or what its caption_source says; null where there is none"),
        "licence": (_S, "the table's licence for this item, or null"),
        "author": (_S, "the table's author for this item, or null"),
    },
)


def _from_inventory(*names: str) -> dict[str, tuple[type[pl.Array] | pl.DataType | type[pl.DataType], str]]:
    return {name: MEDIA_INVENTORY.columns[name] for name in names}


MUSIC_CLIPS = TableSchema(
    "music_clips",
    "a usable music clip",
    {
        "clip_id": (_S, "unique id: the path below music/, or the table's id"),
        **_from_inventory(
            "file",
            "start_s",
            "duration_s",
            "sample_rate",
            "channels",
            "content_hash",
            "label_source",
            "is_original_clip",
            "source_id",
        ),
        "emotion": (_S, "key of the Cowen category, such as sad"),
        "genre": (_S, "letter of the Cowen category, A to M"),
        **_from_inventory(
            "feelings",
            *(f"rating_{name}" for name in RATINGS),
            "valence",
            "arousal",
            "va_source",
            "licence",
            "author",
        ),
        **_UNCERTAINTY,
    },
)

IMAGES = TableSchema(
    "images",
    "a usable image",
    {
        "image_id": (_S, "unique id: the path below images/, or the table's id"),
        **_from_inventory("file", "width", "height", "content_hash", "label_source"),
        "tag": (_S, "one of Mikels' eight emotions"),
        **_from_inventory("caption", "valence", "arousal", "va_source", "licence", "author"),
        "caption_source": (_S, "table, or the model that wrote the caption; null where there is none"),
        **_UNCERTAINTY,
    },
)

MUSIC_TAGS = TableSchema(
    "music_tags",
    "a clip tagged by two networks, to be predicted or to learn from; empty if predict_emotion is off",
    {
        "clip_id": (_S, "the clip"),
        "content_hash": (_S, "hash of the content that was tagged"),
        "log_odds": (pl.Array, "log-odds of 50 MagnaTagATune and 50 Million Song Dataset tags, float32"),
        "reason": (_S, "why the clip has no tags; null where it has some"),
    },
)

IMAGE_FEATURES = TableSchema(
    "image_features",
    "EfficientNet's features of a rated image, or of one without a label; empty if predict_emotion is off",
    {
        "image_id": (_S, "the image"),
        "content_hash": (_S, "hash of the content that was read"),
        "features": (pl.Array, "input of the image emotion head, float32"),
        "reason": (_S, "why the image has no features; null where it has some"),
    },
)

IMAGE_ENCODER_FEATURES = TableSchema(
    "image_encoder_features",
    "the encoder's features of such an image; empty if emotion_features is bundled",
    IMAGE_FEATURES.columns,
)

IMAGE_TEXT_FEATURES = TableSchema(
    "image_text_features",
    "such an image that comes with words; empty without the extra `text`",
    {
        "image_id": (_S, "the image"),
        "text": (_S, "its words: the caption, or what is left of the file name without numbers"),
        "text_source": (_S, "caption or file name"),
        "features": (pl.Array, "the sentence encoder's unit vector of the text, float32"),
    },
)

CALIBRATION_TYPE = pl.List(pl.Struct({"axis": pl.String, "nominal": pl.Float64, "observed": pl.Float64}))

IMAGE_EMOTION_HEAD = TableSchema(
    "image_emotion_head",
    "the head that predicts valence and arousal of images; no row if there is none",
    {
        "weights_file": (_S, "safetensors file, path below the lake folder"),
        "weights_sha256": (_S, "its sha256"),
        "learnt_from": (_S, "digest of the images, ratings and features that it was trained on"),
        "images": (_I64, "rated images that it was trained on"),
        "groups": (_I64, "groups of images that the cross-validation kept together"),
        "grouped_by": (_S, "series (or theme, or the table's source_id); image if there is only one series"),
        "features": (_S, "whose features it uses: bundled, encoder or both, and text where words help"),
        "with_words": (_I64, "rated images with a caption or a file name of words"),
        **{
            f"{axis}_{name}": (_F64, f"cross-validated {meaning} of {axis}")
            for axis in ("valence", "arousal")
            for name, meaning in (
                ("r", "correlation with the ratings"),
                ("r2", "share of the ratings' variance explained"),
                ("rmse", "root mean square error, on the scale 0 to 1"),
            )
        },
        "calibration": (CALIBRATION_TYPE, "share of ratings within intervals of a nominal probability"),
    },
)

MUSIC_EMOTION_HEAD = TableSchema(
    "music_emotion_head",
    "the head that corrects the rule for music by the user's rated clips; no row if there is none",
    {
        "weights_file": (_S, "safetensors file, path below the lake folder"),
        "weights_sha256": (_S, "its sha256"),
        "learnt_from": (_S, "digest of the clips, ratings and tags that it was trained on"),
        "clips": (_I64, "rated clips that it was trained on"),
        "groups": (_I64, "groups of clips that the cross-validation kept together"),
        "grouped_by": (_S, "source (the clips' source_id); clip if there are fewer than five sources"),
        **{
            f"{axis}_{name}": (_F64, f"cross-validated {meaning} of {axis}")
            for axis in ("valence", "arousal")
            for name, meaning in (
                ("r", "correlation with the ratings"),
                ("r2", "share of the ratings' variance explained"),
                ("rmse", "root mean square error, on the scale 1 to 9"),
            )
        },
        "rule_valence_r": (_F64, "correlation with the ratings of valence of the rule alone"),
        "rule_arousal_r": (_F64, "correlation with the ratings of arousal of the rule alone"),
        "calibration": (CALIBRATION_TYPE, "share of ratings within intervals of a nominal probability"),
    },
)

TAG_SHARES_TYPE = pl.List(pl.Struct({"tag": pl.String, "share": pl.Float64}))

PREDICTED_EMOTION = TableSchema(
    "predicted_emotion",
    "a usable medium without a label: its prediction, or why it has none",
    {
        **_from_inventory("kind", "item_id", "content_hash"),
        "partition": (_S, "key of the emotion; null where there is no prediction"),
        **_from_inventory("valence", "arousal"),
        **_UNCERTAINTY,
        "va_source": (_S, "predicted; what the table says where only the label was missing"),
        "tag_shares": (TAG_SHARES_TYPE, "predicted image: probability of each of the eight tags; else null"),
        "reason": (_S, "why there is no prediction; null where there is one"),
    },
)

REJECTED_MEDIA = TableSchema(
    "rejected_media",
    "a media file or table row that cannot be used",
    {**_from_inventory("kind", "item_id", "file", "reason")},
)

MUSIC_EMBEDDINGS = TableSchema(
    "music_embeddings",
    "a music clip in the encoder's joint space",
    {
        "clip_id": (_S, "the clip"),
        "content_hash": (_S, "hash of the content that was encoded"),
        "embedding": (pl.Array, "unit vector, d float32"),
        "scale": (_F32, "norm that the encoder gave it: embedding × scale is X (audio logit scale)"),
    },
)

IMAGE_EMBEDDINGS = TableSchema(
    "image_embeddings",
    "an image in the encoder's joint space",
    {
        "image_id": (_S, "the image"),
        "content_hash": (_S, "hash of the content that was encoded"),
        "embedding": (pl.Array, "unit vector, d float32"),
        "scale": (_F32, "norm that the encoder gave it: embedding × scale is Y"),
    },
)

EXPANSION_WINDOWS = TableSchema(
    "expansion_windows",
    "a window of a source recording, which may join the data set as an expanded clip",
    {
        "clip_id": (_S, "id of the window as a clip: its file and its position there"),
        **_from_inventory("file", "start_s", "duration_s"),
        "content_hash": (_S, "sha256 of the file's bytes, and the window"),
        "source_clip_id": (_S, "the clip of this recording with the nearest embedding"),
        "cosine": (_F64, "cosine between the embeddings of the window and that clip"),
        "embedding": (pl.Array, "unit vector, d float32"),
        "scale": (_F32, "norm that the encoder gave it: embedding × scale is X"),
    },
)

EXPANDED_CLIPS = TableSchema(
    "expanded_clips",
    "an expanded clip: a window of a source recording with the labels of its source clip",
    {
        **MUSIC_CLIPS.columns,
        "source_clip_id": (_S, "the clip that it inherits its labels from"),
        "cosine": EXPANSION_WINDOWS.columns["cosine"],
        "embedding": EXPANSION_WINDOWS.columns["embedding"],
        "scale": EXPANSION_WINDOWS.columns["scale"],
    },
)

SIMILARITY_MATRIX = TableSchema(
    "similarity_matrix",
    "one of the K largest entries of a clip's row of S",
    {
        "clip_id": (_S, "the clip (row of S)"),
        "image_id": (_S, "the candidate image (column of S)"),
        "rank": (_I32, "1 for the largest entry of the row"),
        "score": (_F32, "inner product X·Y"),
        "semantic_similarity": (_F64, "S = exp(score - log_sum_exp): softmax over all images"),
        "log_sum_exp": (_F64, "log of the row's softmax denominator, in 1024ths: gives any other entry of S"),
    },
)

SIMILARITY_SHARDS = TableSchema(
    "similarity_shards",
    "one of a clip's best images within a shard of the images; only if image_shards is above 1",
    {
        "clip_id": (_S, "the clip"),
        "image_id": (_S, "the image"),
        "score": (_F32, "inner product X·Y"),
        "maximum": (_F64, "the clip's largest score in the shard"),
        "sum_exp": (_F64, "sum of exp(score - maximum) over the shard's images"),
        "columns": (_I32, "images in the shard"),
        "column_norm": (_F64, "largest norm of these images"),
        "rounding": (_F64, "bound on the relative rounding error of the scores"),
        "shard": (_I32, "number of the shard"),
    },
)

VA_DISTANCES = TableSchema(
    "va_distances",
    "a candidate pair in the valence-arousal plane: by S, and with method calibrated by E too",
    {
        "clip_id": (_S, "the clip"),
        "image_id": (_S, "the candidate image"),
        "score": (_F32, "inner product X·Y, as in similarity_matrix"),
        "emotional_similarity": (_F64, "E in [0, 1] by the kernel in use; 1 is most alike"),
        "cosine": (_F64, "cosine between the aligned VA vectors; null where one of them is zero"),
        "euclidean": (_F64, "distance between the aligned VA points, on [-1, 1]²"),
    },
)

FUSED_PAIRS = TableSchema(
    "fused_pairs",
    "a chosen music-image pair",
    {
        "clip_id": (_S, "the clip"),
        "image_id": (_S, "the image"),
        "rank": (_I32, "1 for the best of the clip's m images"),
        "semantic_similarity": (_F64, "S over all images"),
        "rescaled_similarity": (_F64, "S̃: S as the fused score uses it"),
        "emotional_similarity": (_F64, "E"),
        "fused_score": (_F64, "T = alpha S̃ + (1 - alpha) E"),
    },
)

EPOCH_TYPE = pl.List(
    pl.Struct(
        {
            "epoch": pl.Int32,
            "loss": pl.Float64,
            "precision_at_10": pl.Float64,
            "recall_at_10": pl.Float64,
            "map_at_10": pl.Float64,
            "ndcg_at_10": pl.Float64,
            "mrr_at_10": pl.Float64,
            "hit_rate_at_10": pl.Float64,
        }
    )
)

TRAINED_ADAPTER = TableSchema(
    "trained_adapter",
    "a trained network",
    {
        "network": (_S, "bmf, ..."),
        "weights_file": (_S, "safetensors file, path below the lake folder"),
        "weights_sha256": (_S, "its sha256"),
        "dimension": (_I32, "length of the new embeddings"),
        "parameters": (_I64, "number of trained parameters"),
        "seed": (_I64, "seed of initialisation, split and sampling"),
        "best_epoch": (_I32, "epoch whose weights are kept: the one with the best validation NDCG@10"),
        "history": (EPOCH_TYPE, "loss and validation metrics of each epoch"),
    },
)

TUNING_TRIALS = TableSchema(
    "tuning_trials",
    "a trial of a network's hyperparameter study",
    {
        "network": (_S, "the network"),
        "study": (_S, "its study: one for each data version and set of training settings"),
        "trial": (_I32, "number, from 0; trial 0 has the network's own values"),
        "state": (_S, "complete, pruned (stopped early: worse than the median) or fail"),
        "ndcg_at_10": (_F64, "best value on the validation part; null if no epoch finished"),
        "epochs": (_I32, "epochs that ran"),
        "hyperparameters": (_S, "JSON object: name to value"),
    },
)

ADAPTED_EMBEDDINGS = TableSchema(
    "adapted_embeddings",
    "a clip or an image in a network's new space",
    {
        "network": (_S, "the network"),
        "kind": (_S, "music or image"),
        "item_id": (_S, "clip or image id"),
        "split": (_S, "music: train, validation or test, by source clip; null for images"),
        "embedding": (pl.Array, "new embedding: the inner product music · image ranks the images of a clip"),
    },
)

PUBLISHED_PAIRS = TableSchema(
    "published_pairs",
    "a published pair of these media (pairs.csv), for comparison with ours",
    {
        "clip_id": (_S, "the clip"),
        "image_id": (_S, "the image"),
        "rank": (_I32, "rank among the clip's published images, from 1"),
    },
)

EMID_RELEASE = TableSchema(
    "emid_release",
    "a file of the release: the data set as a folder to share",
    {
        "file": (_S, "path below the release folder, with / between its parts"),
        "role": (_S, "table, media, data (media inside the rows), retrieval or card"),
        "size_bytes": (_I64, "size of the file"),
        "sha256": (_S, "sha256 of the file, as in SHA256SUMS"),
    },
)

_FIGURE = {
    "section": (_S, "counts, overlap, retrieval_test, public_tasks, sweep, ..."),
    "system": (_S, "what is measured: a network, semantic, random, pairs, ..."),
    "metric": (_S, "name, such as ndcg_at_10"),
    "value": (_F64, "the figure"),
}
PAIR_STATISTICS = TableSchema("pair_statistics", "one figure about the pairs", dict(_FIGURE))
RETRIEVAL_METRICS = TableSchema(
    "retrieval_metrics",
    "one figure of how well a system ranks the images of clips",
    {
        **_FIGURE,
        "low": (_F64, "lower end of the mean's 95 % interval, had other sources been drawn"),
        "high": (_F64, "its upper end"),
    },
)
EVALUATION_REPORT = TableSchema("evaluation_report", "one figure of the report", dict(_FIGURE))

ALPHA_SWEEP = TableSchema(
    "alpha_sweep",
    "the effect of one choice of alpha, m and K on the pairs",
    {
        "rescaling": (_S, "S̃, S as T uses it"),
        "alpha": (_F64, "weight of the semantic term"),
        "images_per_clip": (_I32, "m"),
        "candidates": (_I32, "K"),
        "same_as_emotional": (_F64, "share of the picks that alpha = 0 makes too"),
        "same_as_semantic": (_F64, "share of the picks that alpha = 1 makes too"),
        "label_precision": (_F64, "share of the picks whose tag matches the clip's category by its meaning"),
        "coverage": (_F64, "share of the candidates that are picked at least once"),
        "independent_labels": (
            _F64,
            "share of clips and images whose label and position do not derive from each other; below 1, "
            "label_precision cannot judge alpha",
        ),
    },
)

PUBLISHED_AGREEMENT = TableSchema(
    "published_agreement",
    "how many published pairs would be among ours at one alpha",
    {
        "rescaling": (_S, "S̃, S as T uses it"),
        "alpha": (_F64, "weight of the semantic term"),
        "agree_at_alpha": (_I64, "published pairs that would be among ours at this alpha"),
        "published": (_I64, "published pairs in all"),
        "comparable": (_I64, "published pairs whose clip and image are both in the data set"),
        "among_candidates": (_I64, "published pairs whose image is among its clip's candidates"),
        "agree": (_I64, "published pairs that are among our current pairs"),
        "agree_by_chance": (_F64, "expected number if pairs were drawn at random from the candidates"),
    },
)

TOP_IMAGES = TableSchema(
    "top_images",
    "one of the images that a system ranks highest for a clip",
    {
        "clip_id": (_S, "the clip"),
        "system": (_S, "semantic (the largest S), fused (the largest T) or adapter (the best network)"),
        "rank": (_I32, "from 1, which is the best"),
        "image_id": (_S, "the image"),
        "semantic_similarity": (_F64, "S"),
        "emotional_similarity": (_F64, "E"),
        "fused_score": (_F64, "T"),
    },
)

LISTENING_STUDY = TableSchema(
    "listening_study",
    "an image that a trial of the listening study shows",
    {
        "trial_id": (_S, "opaque id of the trial: a clip with one image from each condition"),
        "clip_id": (_S, "the clip that is played"),
        "emotion": (_S, "key of the clip's Cowen category"),
        "split": (_S, "the clip's split when the adapter was trained: train, validation or test"),
        "condition": (_S, "how the image was picked: semantic (α = 1), fused (α in use), adapter or random"),
        "option_id": (_S, "opaque id of the image within the trial"),
        "image_id": (_S, "the image"),
        "condition_rank": (_I32, "its rank in the condition's ranking; above 1 only where a tie moved it"),
        "tied_with": (pl.List(pl.String), "other conditions with the same best image for the clip"),
        "design_hash": (_S, "identifies the design"),
    },
)

STUDY_ANSWERS = TableSchema(
    "study_answers",
    "a participant's answer to one trial",
    {
        "participant_id": (_S, "opaque id, drawn at random in the participant's browser"),
        "trial_id": (_S, "the trial; each participant answers it at most once"),
        "clip_id": (_S, "the clip that was played"),
        "emotion": (_S, "key of the clip's Cowen category"),
        "conditions": (
            pl.List(pl.String),
            "conditions of the images in screen order, first to last; empty in an attention check",
        ),
        "chosen_condition": (_S, "condition of the chosen image; null if missing, or in an attention check"),
        "chosen_position": (_I32, "position of the chosen image on the screen, from 1; null if missing"),
        "response_ms": (_I64, "milliseconds from the clip's start to the answer"),
        "is_attention_check": (_B, "whether the trial named the image to choose"),
        "attention_passed": (_B, "whether that image was chosen; null if the trial is no attention check"),
        "language": (_S, "language of the page, such as en"),
        "answered_at": (pl.Datetime("us", "UTC"), "time of the answer, by the participant's clock"),
        "design_hash": (_S, "identifies the design that the answer belongs to"),
    },
)

STUDY_RESULTS = TableSchema(
    "study_results",
    "one figure of the listening study's statistics; the most recently answered design comes first",
    {
        "design_hash": (_S, "the design that was answered: each is analysed separately"),
        "analysis": (
            _S,
            "exclusions, shares, bootstrap, gee, binomial, mcnemar, conditional_logit, agreement",
        ),
        "role": (_S, "primary (allows for participants and clips), secondary (does not) or descriptive"),
        "scope": (_S, "all, an emotion's key, or without_exclusions, without_ties, test_clips"),
        "condition": (_S, "the condition; null if the figure concerns none"),
        "versus": (_S, "what it is compared with: another condition, or chance"),
        "measure": (_S, "share, chance, risk_difference, odds_ratio, cohens_h, participants, trials, ..."),
        "estimate": (_F64, "the figure; null where the note says why there is none"),
        "low": (_F64, "lower end of the 95 % interval"),
        "high": (_F64, "upper end of the 95 % interval"),
        "p_value": (_F64, "two-sided p-value"),
        "p_adjusted": (_F64, "p-value with Holm's correction over the comparisons of one family"),
        "trials": (_I64, "answered trials behind the figure"),
        "participants": (_I64, "participants behind the figure"),
        "clips": (_I64, "clips behind the figure"),
        "note": (_S, "what was counted, or why there is no figure"),
    },
)

PIPELINE_HEALTH = TableSchema(
    "pipeline_health",
    "a partition of an asset, as it was when this table was built",
    {
        "asset": (_S, "the asset"),
        "partition": (_S, "its partition; all if the asset has none"),
        "state": (_S, "ok, running, failed, damaged, overdue, missing or stale"),
        "message": (_S, "why it is in that state; empty where it is ok"),
        "built_at": (_S, "when its current version was built, UTC; null where there is none"),
        "rows": (_I64, "rows of the current version"),
        "bytes": (_I64, "bytes of its file"),
        "seconds": (_F64, "seconds that the asset took to compute, without reading and storing"),
        "run_id": (_S, "the newest run that includes it; null where none is on record"),
    },
)

TABLES: dict[str, TableSchema] = {
    schema.name: schema
    for schema in (
        MEDIA_INVENTORY,
        MUSIC_TAGS,
        IMAGE_FEATURES,
        IMAGE_ENCODER_FEATURES,
        IMAGE_TEXT_FEATURES,
        IMAGE_EMOTION_HEAD,
        MUSIC_EMOTION_HEAD,
        PREDICTED_EMOTION,
        MUSIC_CLIPS,
        IMAGES,
        REJECTED_MEDIA,
        MUSIC_EMBEDDINGS,
        IMAGE_EMBEDDINGS,
        EXPANSION_WINDOWS,
        EXPANDED_CLIPS,
        SIMILARITY_MATRIX,
        SIMILARITY_SHARDS,
        VA_DISTANCES,
        FUSED_PAIRS,
        PUBLISHED_PAIRS,
        EMID_RELEASE,
        TRAINED_ADAPTER,
        TUNING_TRIALS,
        ADAPTED_EMBEDDINGS,
        TOP_IMAGES,
        PAIR_STATISTICS,
        RETRIEVAL_METRICS,
        ALPHA_SWEEP,
        PUBLISHED_AGREEMENT,
        EVALUATION_REPORT,
        LISTENING_STUDY,
        STUDY_ANSWERS,
        STUDY_RESULTS,
        PIPELINE_HEALTH,
    )
}
