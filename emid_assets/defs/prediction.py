"""The prediction assets: predict an emotion for media without a label, before partitions are known.

Everything here is empty, and no network is loaded, unless the setting `predict_emotion` is on. The networks
are small and independent of the chosen encoder, unless `emotion_features` asks for the encoder's vectors.
Those are made here too: `image_embeddings` comes later in the graph, in the partition of the image's tag.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from emid_assets.defs.embeddings import ENCODER_SETTINGS, GPU_POOL, OF_ENCODER, earlier_rows, media_items
from emid_assets.health.recipes import CHANGED_MEDIA
from emid_assets.media.identity import is_passing
from emid_assets.media.kinds import READER_VERSION, MediaKind
from emid_assets.media.with_predictions import unlabelled
from emid_assets.orchestration.declared import Declared, Outside
from emid_assets.orchestration.io_manager import previous_rows, previous_version
from emid_assets.orchestration.progress import report_progress
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.settings import Settings
from emid_assets.store.data_version import frame_digest
from emid_assets.store.lake import WHOLE_TABLE, Lake
from emid_assets.store.layout import WEIGHTS_FOLDER
from emid_assets.store.schemas import (
    IMAGE_EMOTION_HEAD,
    IMAGE_TEXT_FEATURES,
    MUSIC_EMOTION_HEAD,
    PREDICTED_EMOTION,
    TABLES,
)

if TYPE_CHECKING:
    from emid_assets.encoders.interface import Encoder
    from emid_assets.prediction.image_blocks import ImageBlocks


def _vectors(
    context: dg.AssetExecutionContext,
    settings: SettingsResource,
    kind: MediaKind,
    media: pl.DataFrame,
    load_network: "Callable[[], Encoder]",
) -> dg.MaterializeResult[pl.DataFrame]:
    """What a network makes of each medium; what an earlier run of the same network made is kept."""
    from emid_assets.prediction.vectors import vectors_of

    table = context.asset_key.path[-1]
    schema = TABLES[table]
    lake = Lake(settings.lake_folder)
    version = previous_version(lake, table, WHOLE_TABLE)
    made: dict[str, str | int] = {"encoded": 0, "fingerprint": ""}
    frame = schema.empty()
    if media.height:
        network = load_network()
        on_progress = report_progress(context, "read")
        frame, encoded = vectors_of(
            media_items(settings.media_folder, media, "item_id"),
            network,
            kind,
            schema,
            earlier_rows(context, lake, version),
            batch_size=settings.batch_size,
            workers=settings.workers,
            on_progress=lambda progress: on_progress(progress.done, progress.total),
        )
        made = {"encoded": encoded, "fingerprint": network.fingerprint, "licence": network.licence}
    return dg.MaterializeResult(
        value=frame,
        data_version=dg.DataVersion(frame_digest(frame.drop(frame.columns[2]), str(made["fingerprint"]))),
        metadata={
            **made,
            "media": frame.height,
            "without": frame["reason"].count(),
            CHANGED_MEDIA: sum(map(is_passing, frame["reason"].drop_nulls())),
        },
    )


FEATURE_SETTINGS = ("predict_emotion", "emotion_features")
OF_READER = Outside("reader of media files", lambda _, __: READER_VERSION)


@table_asset(
    stage="inventory",
    group_name="prediction",
    kinds={"torch", "duckdb"},
    pool=GPU_POOL,
    declared=Declared(code=2, outside=OF_READER),
)
def music_tags(
    context: dg.AssetExecutionContext, settings: SettingsResource, media_inventory: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """Tags by musicnn for each clip that has neither a label nor ratings, and for rated clips to learn from.

    Rated clips are tagged only if there is a clip to predict.
    """
    from emid_assets.prediction.predict import rated_clips, unrated_clips

    def load() -> "Encoder":
        from emid_assets.prediction.musicnn import MusicTagger

        return MusicTagger(settings.device)

    clips = pl.concat([rated_clips(media_inventory), unrated_clips(media_inventory)])
    return _vectors(context, settings, "music", clips, load)


@table_asset(
    stage="inventory",
    group_name="prediction",
    kinds={"numpy", "duckdb"},
    declared=Declared(settings=("seed",)),
    checks={"finite": "The cross-validated figures are finite numbers."},
    warnings={"explains": "On both axes the head explains part of the variance of unseen ratings."},
)
def music_emotion_head(
    context: dg.AssetExecutionContext,
    settings: SettingsResource,
    media_inventory: pl.DataFrame,
    music_tags: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """The head that corrects the rule for music by the clips that the user has rated.

    Cross-validated by source, so that no clip is predicted from others of its source. Retrained only if the
    rated clips have changed. Has no row, and the rule alone predicts, if too few clips are rated, there is
    no clip to predict, or predict_emotion is off.
    """
    from emid_assets.prediction.music_head import head_frame
    from emid_assets.prediction.predict import rated_clips

    frame, rated = MUSIC_EMOTION_HEAD.empty(), rated_clips(media_inventory)
    if rated.height:
        lake = Lake(settings.lake_folder)
        stored = previous_version(lake, "music_emotion_head", WHOLE_TABLE)
        frame = head_frame(
            rated,
            music_tags,
            str(lake.versions("music_tags")[0].metadata["fingerprint"]),
            settings.seed,
            lake.root / WEIGHTS_FOLDER,
            previous=previous_rows(context, lake, stored),
        )
    return _head_result(frame, ("weights_file", "grouped_by"))


@table_asset(
    stage="inventory",
    group_name="prediction",
    kinds={"torch", "duckdb"},
    pool=GPU_POOL,
    declared=Declared(settings=FEATURE_SETTINGS, outside=OF_READER),
)
def image_features(
    context: dg.AssetExecutionContext, settings: SettingsResource, media_inventory: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """EfficientNet-lite0's features of each rated image, and of each image with neither a label nor ratings.

    Empty if too few images are rated to train on, or if emotion_features is encoder.
    """

    def load() -> "Encoder":
        from emid_assets.prediction.image_features import ImageFeatures

        return ImageFeatures(settings.device)

    wanted = settings.emotion_features != "encoder"
    images = _images_of_head(settings, media_inventory) if wanted else media_inventory.clear()
    return _vectors(context, settings, "image", images, load)


@table_asset(
    stage="inventory",
    group_name="prediction",
    kinds={"torch", "duckdb"},
    pool=GPU_POOL,
    declared=Declared(
        settings=("predict_emotion", "emotion_features", *ENCODER_SETTINGS), outside=OF_ENCODER
    ),
)
def image_encoder_features(
    context: dg.AssetExecutionContext, settings: SettingsResource, media_inventory: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """The encoder's vectors of the same images. Empty unless emotion_features is encoder or both."""

    def load() -> "Encoder":
        from emid_assets.encoders.load import encoder_from

        return encoder_from(settings)

    wanted = settings.emotion_features != "bundled"
    images = _images_of_head(settings, media_inventory) if wanted else media_inventory.clear()
    return _vectors(context, settings, "image", images, load)


def _images_of_head(settings: SettingsResource, media_inventory: pl.DataFrame) -> pl.DataFrame:
    """The rated images and those that the head predicts; none if there will be no head."""
    from emid_assets.prediction.predict import rated_images, too_few_rated

    rated = rated_images(media_inventory)
    unrated = unlabelled(media_inventory).filter((pl.col("kind") == "image") & pl.col("valence").is_null())
    wanted = settings.predict_emotion and too_few_rated(rated.height) is None
    return pl.concat([rated, unrated]) if wanted else media_inventory.clear()


def _text_encoder_identity(_: Settings, __: str) -> str:
    from emid_assets.prediction.image_text import text_encoder_identity

    return text_encoder_identity()


@table_asset(
    stage="inventory",
    group_name="prediction",
    kinds={"duckdb"},
    declared=Declared(settings=("predict_emotion",), outside=Outside("text encoder", _text_encoder_identity)),
)
def image_text_features(
    context: dg.AssetExecutionContext, settings: SettingsResource, media_inventory: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """MiniLM's vector of the words of each image that the head reads: its caption, or its file name.

    An image called like `IMG_0001` has no words and no row. Empty without the extra `text`.
    """
    from emid_assets.prediction.image_text import TextEncoder, text_encoder_identity, text_features_of

    images = _images_of_head(settings, media_inventory)
    fingerprint = text_encoder_identity() if images.height else ""
    lake = Lake(settings.lake_folder)
    version = previous_version(lake, "image_text_features", WHOLE_TABLE)
    frame, encoded = IMAGE_TEXT_FEATURES.empty(), 0
    if fingerprint:
        is_kept = version is not None and version.metadata.get("fingerprint") == fingerprint
        earlier = previous_rows(context, lake, version) if is_kept else None
        frame, encoded = text_features_of(images, TextEncoder(), earlier)
    elif images.height:
        context.log.info("words of images are not read: pip install 'emid-assets[text]'")
    words = dict(frame["text_source"].value_counts().iter_rows())
    return dg.MaterializeResult(
        value=frame,
        data_version=dg.DataVersion(frame_digest(frame.drop("features"), fingerprint)),
        metadata={
            "encoded": encoded,
            "fingerprint": fingerprint,
            "from_captions": words.get("caption", 0),
            "from_file_names": words.get("file name", 0),
            "without_words": images.height - frame.height,
        },
    )


@table_asset(
    stage="inventory",
    group_name="prediction",
    kinds={"numpy", "duckdb"},
    declared=Declared(code=2, settings=("seed",)),
    checks={"finite": "The cross-validated figures are finite numbers."},
    warnings={
        "explains": "On both axes the head explains part of the variance of unseen ratings.",
        "enough": "The head learns from enough rated images to know most of what it can.",
    },
)
def image_emotion_head(
    context: dg.AssetExecutionContext,
    settings: SettingsResource,
    media_inventory: pl.DataFrame,
    image_features: pl.DataFrame,
    image_encoder_features: pl.DataFrame,
    image_text_features: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """The head that predicts an image's valence and arousal, trained on the images that the user has rated.

    Cross-validated by series, so that no image is predicted from others of its series. Retrained only if the
    rated images have changed. Has no row if too few images are rated or predict_emotion is off.
    """
    from emid_assets.prediction.image_head import few_images

    lake = Lake(settings.lake_folder)
    blocks = _blocks(lake, image_features, image_encoder_features, image_text_features)
    frame = _head_of(context, settings, media_inventory, blocks)
    few = few_images(frame["images"][0]) if frame.height else None
    return _head_result(frame, ("weights_file", "grouped_by", "features"), enough=few or "")


def _head_result(
    frame: pl.DataFrame, told: Sequence[str], **doubts: str
) -> dg.MaterializeResult[pl.DataFrame]:
    """A head's table with its figures and checks; without a head they all pass.

    Args:
        frame: IMAGE_EMOTION_HEAD or MUSIC_EMOTION_HEAD.
        told: columns of text that the metadata shows beside the figures.
        doubts: check → what speaks against the head, empty where nothing does. `explains` is added.
    """
    row = frame.row(0, named=True) if frame.height else {}
    figures = {name: value for name, value in row.items() if isinstance(value, int | float)}
    explained = {axis: figures.get(f"{axis}_r2", 1.0) for axis in ("valence", "arousal")}
    useless = [f"{axis}: R² {r2:.2f}, no better than the mean" for axis, r2 in explained.items() if r2 <= 0]
    return dg.MaterializeResult(
        value=frame,
        data_version=dg.DataVersion(frame_digest(frame)),
        metadata={
            "trained": frame.height == 1,
            **{name: row.get(name, "") for name in told},
            **figures,
        },
        check_results=[
            check_result("finite", [name for name, value in figures.items() if value != value], len(figures)),
            *(
                dg.AssetCheckResult(
                    check_name=name, passed=not doubt, severity=dg.AssetCheckSeverity.WARN, description=doubt
                )
                for name, doubt in {"explains": "; ".join(useless), **doubts}.items()
            ),
        ],
    )


def _blocks(
    lake: Lake,
    image_features: pl.DataFrame,
    image_encoder_features: pl.DataFrame,
    image_text_features: pl.DataFrame,
) -> "ImageBlocks | None":
    """The features that there are, as the head reads them; None if there are none."""
    from emid_assets.prediction.image_blocks import BUNDLED, ENCODER, Source, image_blocks
    from emid_assets.prediction.image_features import FEATURE_BLOCKS

    def source(table: str, frame: pl.DataFrame, blocks: Sequence[int] = ()) -> Source:
        length = frame.schema["features"].shape[0]  # type: ignore[attr-defined]
        fingerprint = str(lake.versions(table)[0].metadata["fingerprint"])
        return Source(frame, blocks or (length,), fingerprint)

    networks = {}
    if image_features.height:
        networks[BUNDLED] = source("image_features", image_features, FEATURE_BLOCKS)
    if image_encoder_features.height:
        networks[ENCODER] = source("image_encoder_features", image_encoder_features)
    if not networks:
        return None
    has_words = image_text_features.height > 0
    return image_blocks(networks, source("image_text_features", image_text_features) if has_words else None)


def _head_of(
    context: dg.AssetExecutionContext,
    settings: SettingsResource,
    media_inventory: pl.DataFrame,
    blocks: "ImageBlocks | None",
) -> pl.DataFrame:
    """IMAGE_EMOTION_HEAD; has no row if there is nothing to learn from."""
    if blocks is None:
        return IMAGE_EMOTION_HEAD.empty()
    from emid_assets.prediction.image_head import head_frame
    from emid_assets.prediction.predict import rated_images

    lake = Lake(settings.lake_folder)
    stored = previous_version(lake, "image_emotion_head", WHOLE_TABLE)
    return head_frame(
        rated_images(media_inventory),
        blocks,
        settings.seed,
        lake.root / WEIGHTS_FOLDER,
        previous=previous_rows(context, lake, stored),
    )


@table_asset(
    stage="inventory",
    group_name="prediction",
    kinds={"numpy", "duckdb"},
    declared=Declared(code=2, settings=("predict_emotion",)),
    checks={"within_scale": "Predicted valence and arousal are within their modality's scale."},
)
def predicted_emotion(
    settings: SettingsResource,
    media_inventory: pl.DataFrame,
    music_tags: pl.DataFrame,
    image_features: pl.DataFrame,
    image_encoder_features: pl.DataFrame,
    image_text_features: pl.DataFrame,
    image_emotion_head: pl.DataFrame,
    music_emotion_head: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """Valence, arousal, their uncertainty and the emotion of each medium without a label."""
    frame = PREDICTED_EMOTION.empty()
    if settings.predict_emotion:
        from emid_assets.prediction.image_head import ImageEmotionHead
        from emid_assets.prediction.music_head import MusicEmotionHead
        from emid_assets.prediction.predict import predict_emotion

        head = music_head = None
        if image_emotion_head.height:
            head = ImageEmotionHead.load(settings.lake_folder / image_emotion_head["weights_file"][0])
        if music_emotion_head.height:
            music_head = MusicEmotionHead.load(settings.lake_folder / music_emotion_head["weights_file"][0])
        lake = Lake(settings.lake_folder)
        blocks = _blocks(lake, image_features, image_encoder_features, image_text_features)
        frame = predict_emotion(media_inventory, music_tags, blocks, head, music_head)
    ends = {"music": (1.0, 9.0), "image": (0.0, 1.0)}
    outside = [
        f"{item_id}: {valence}, {arousal}"
        for kind, item_id, valence, arousal in frame.drop_nulls("partition")
        .select("kind", "item_id", "valence", "arousal")
        .iter_rows()
        if not all(ends[kind][0] <= value <= ends[kind][1] for value in (valence, arousal))
    ]
    counts = dict(frame.drop_nulls("partition").group_by("kind").len().iter_rows())
    return dg.MaterializeResult(
        value=frame,
        data_version=dg.DataVersion(frame_digest(frame)),
        metadata={
            "music": counts.get("music", 0),
            "images": counts.get("image", 0),
            "without": frame["reason"].count(),
        },
        check_results=[
            check_result("within_scale", outside, frame.height),
        ],
    )
