"""The inventory joined with the predictions for media without a label.

Belongs here: joining the two tables. `emid_assets.prediction` makes the predictions.
"""

import polars as pl

from emid_assets.store.schemas import PREDICTED_EMOTION

PREDICTED = "predicted"
"""Value of `label_source`, and of `va_source` if valence and arousal were predicted too."""


def unlabelled(inventory: pl.DataFrame) -> pl.DataFrame:
    """The rows of an inventory (MEDIA_INVENTORY) that are usable except that they have no label."""
    return inventory.filter(pl.col("reason").is_null() & pl.col("partition").is_null())


def with_predictions(inventory: pl.DataFrame, predicted: pl.DataFrame) -> pl.DataFrame:
    """The inventory with a predicted emotion, or a reason, for every unlabelled medium.

    Args:
        inventory: frame MEDIA_INVENTORY.
        predicted: frame PREDICTED_EMOTION.

    Returns:
        The inventory's rows and columns. Labelled and rejected rows are unchanged.
    """
    uncertainty = ["valence_sd", "arousal_sd"]
    found = PREDICTED_EMOTION.check(predicted).drop("content_hash")
    filled = ["partition", "valence", "arousal", "va_source", *uncertainty, "reason"]
    joined = inventory.join(
        found.rename({name: f"_{name}" for name in filled}),
        on=["kind", "item_id"],
        how="left",
        maintain_order="left",
    )
    mine = pl.col("reason").is_null() & pl.col("partition").is_null()
    missing = pl.lit("has no label, and none was predicted: materialize predicted_emotion")
    reason = pl.coalesce(pl.col("_reason"), pl.when(pl.col("_partition").is_null()).then(missing))
    return joined.with_columns(
        *(pl.when(mine).then(f"_{name}").otherwise(name).alias(name) for name in filled[:4]),
        *(
            pl.when(mine).then(pl.coalesce(f"_{name}", name)).otherwise(name).alias(name)
            for name in uncertainty
        ),
        pl.when(mine).then(reason).otherwise("reason").alias("reason"),
        pl.when(mine).then(pl.lit(PREDICTED)).otherwise("label_source").alias("label_source"),
    ).select(inventory.columns)
