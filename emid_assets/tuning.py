"""`emid tune`: a study of a network's hyperparameters on a built lake, and what it found.

Belongs here: from the lake to `adapters.tuning` and back. The study's journal lies in the lake's
folder `studies/`; its trials are the table `tuning_trials`, which the report plots and training reads.
"""

import json
from collections.abc import Callable
from typing import Any

import polars as pl

from emid_assets.media.expansion import all_clips, all_music_embeddings
from emid_assets.media.va_plane import image_alignment, music_alignment, on_plane
from emid_assets.settings import Settings
from emid_assets.store.duckdb_store import Lake

STUDIES_FOLDER = "studies"


def tune_lake(
    settings: Settings,
    network: str,
    trials: int,
    on_trial: Callable[[int, float | None], None] | None = None,
) -> pl.DataFrame:
    """Go on with the network's study on the lake's pairs; arguments and result as `adapters.tuning.tune`.

    Raises:
        LakeError: the pairs have not been built.
        AdapterError: as `adapters.tuning.tune`.
    """
    from emid_assets.adapters.frames import Pairing, pair_data
    from emid_assets.adapters.training import TrainingSettings
    from emid_assets.adapters.tuning import tune

    lake = Lake(settings.lake_folder)
    music_clips, expanded = lake.read("music_clips"), lake.read("expanded_clips")
    clips, images = all_clips(music_clips, expanded), lake.read("images")
    data = pair_data(
        all_music_embeddings(lake.read("music_embeddings"), expanded),
        lake.read("image_embeddings"),
        lake.read("fused_pairs"),
        clips,
        on_plane(clips, "clip_id", music_alignment(music_clips, settings.va_alignment)),
        on_plane(images, "image_id", image_alignment(images, settings.va_alignment)),
        settings.seed,
        Pairing.of(settings),
    )
    rows = tune(
        network,
        data,
        TrainingSettings(
            dimension=settings.adapter_dimension,
            epochs=settings.epochs,
            seed=settings.seed,
            device=settings.device,
        ),
        lake.root / STUDIES_FOLDER / f"{network}.journal",
        trials,
        on_trial,
    )
    lake.write("tuning_trials", network, rows)
    lake.rebuild_catalogue()
    return rows


def tuning_trials(lake: Lake) -> pl.DataFrame | None:
    """The trials of every network that was tuned; None where none was."""
    return lake.read("tuning_trials") if lake.partitions("tuning_trials") else None


def tuned_hyperparameters(lake: Lake, network: str) -> dict[str, Any]:
    """The hyperparameters of the study's best trial; empty where the network was not tuned."""
    if network not in lake.partitions("tuning_trials"):
        return {}
    from emid_assets.adapters.tuning import best_trial

    found: dict[str, Any] = json.loads(best_trial(lake.read("tuning_trials", [network]))["hyperparameters"])
    return found
