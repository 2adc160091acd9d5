"""The adapter stage: trains networks on the pairs and computes their new embeddings."""

from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from emid_assets.defs.embeddings import GPU_POOL
from emid_assets.media.expansion import all_music_embeddings
from emid_assets.media.lake_tables import LakeTables
from emid_assets.media.va_plane import image_alignment, on_plane
from emid_assets.orchestration.declared import Declared, Outside, all_of
from emid_assets.orchestration.io_manager import previous_version
from emid_assets.orchestration.partitions import NETWORK_PARTITIONS, every_partition
from emid_assets.orchestration.progress import report_progress
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.table_asset import check_result, table_asset
from emid_assets.settings import FORMULA_SETTINGS, LOCAL_PATHS, Settings, in_use, setting_text
from emid_assets.store.data_version import frame_digest
from emid_assets.store.lake import Lake
from emid_assets.store.layout import WEIGHTS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from emid_assets.adapters.pair_data import PairData
    from emid_assets.adapters.trained_adapter import TrainedAdapter


def _digest_of_trials(settings: Settings, network: str) -> str:
    file = Lake(settings.lake_folder).current_files("tuning_trials").get(network)
    return file.name if file else ""


@table_asset(
    stage="train_adapter",
    group_name="adapter",
    kinds={"torch", "duckdb"},
    partitions_def=NETWORK_PARTITIONS,
    pool=GPU_POOL,
    reads=("music_embeddings", "expanded_clips", "image_embeddings", "fused_pairs", "music_clips", "images"),
    declared=Declared(
        code=2,
        settings=(
            *FORMULA_SETTINGS,
            "adapter_dimension",
            "epochs",
            "learning_rate",
            "adapter_warm_start",
            "seed",
        ),
        outside=Outside("tuned hyperparameters", _digest_of_trials),
    ),
    checks={
        "loss_is_finite": "The loss of every epoch is a finite number.",
        "no_recording_divided": "All clips of a recording are in one part of the split.",
    },
)
def trained_adapter(
    context: dg.AssetExecutionContext, settings: SettingsResource, tables: LakeTables
) -> dg.MaterializeResult[pl.DataFrame]:
    """An EMI-Adapter network trained on the pairs: weights file, loss and @10 metrics of every epoch.

    Clips are split by source, so that no recording is used for both training and testing.
    """
    from emid_assets.adapters.pair_data import pair_data
    from emid_assets.adapters.run_files import save_run
    from emid_assets.adapters.trained_adapter import TrainingSettings
    from emid_assets.adapters.training import train
    from emid_assets.adapters.tuning import study_name, tuned_hyperparameters
    from emid_assets.matching.fusion import Formula

    network = context.partition_key
    lake = Lake(settings.lake_folder)
    data = pair_data(tables, settings.seed, Formula.of(settings))
    training = TrainingSettings.of(settings)
    tuned, origin = tuned_hyperparameters(lake, network, study_name(network, data, training))
    context.log.info(f"hyperparameters of {network}: {origin}")
    on_progress = report_progress(context, "epochs")
    previous = previous_version(lake, "trained_adapter", network)
    stored = {lake.root / str(previous.metadata["weights_file"])} if previous else set()
    adapter = train(
        network,
        data,
        training,
        tuned,
        on_epoch=lambda epoch: on_progress(int(epoch["epoch"] or 0), settings.epochs),
        weights=_weights_of(stored) if settings.adapter_warm_start else None,
    )
    names = [name for name in Settings.model_fields if name not in LOCAL_PATHS]
    configuration = {name: setting_text(in_use(all_of(settings), name)) for name in names}
    weights, sha256 = save_run(adapter, lake.root / WEIGHTS_FOLDER, configuration, stored)
    manifest = adapter.manifest_frame(weights.relative_to(lake.root).as_posix(), sha256)
    return dg.MaterializeResult(
        value=manifest,
        data_version=dg.DataVersion(sha256),
        metadata={
            "weights_file": manifest["weights_file"][0],
            "weights": dg.MetadataValue.path(weights),
            "run_record": dg.MetadataValue.path(weights.with_suffix(".json")),
            "hyperparameters": origin,
            **_training_metadata(adapter),
        },
        check_results=_training_checks(adapter, data, tables.music_clips),
    )


def _training_checks(
    adapter: "TrainedAdapter", data: "PairData", music_clips: pl.DataFrame
) -> list[dg.AssetCheckResult]:
    """Whether the losses are finite, and whether the split has each recording on one side."""
    from emid_assets.adapters.splits import divided_recordings

    losses = {epoch["epoch"]: float(epoch["loss"] or 0.0) for epoch in adapter.history}
    not_finite = [f"epoch {epoch}" for epoch, loss in losses.items() if not loss < float("inf")]
    part_of = dict(zip(data.clip_ids, data.clip_parts, strict=True))
    return [
        check_result("loss_is_finite", not_finite, len(losses)),
        check_result("no_recording_divided", divided_recordings(music_clips, part_of), len(part_of)),
    ]


def _weights_of(stored: "set[Path]") -> "Mapping[str, Tensor] | None":
    """The last adapter's weights; None for the first training, or if the file is gone."""
    from emid_assets.adapters.trained_adapter import TrainedAdapter

    return next((TrainedAdapter.load(file).state for file in stored if file.is_file()), None)


def _training_metadata(adapter: "TrainedAdapter") -> dict[str, Any]:
    """The best epoch's figures, and the curves of all epochs."""
    from emid_assets.report.figures import loss_figure, metrics_figure
    from emid_assets.report.style import markdown_image

    network, history = adapter.network, pl.DataFrame(adapter.history)
    best = adapter.history[adapter.best_epoch - 1]
    curves = {
        "loss_curve": (loss_figure(network, history, adapter.best_epoch), f"Loss of {network}"),
        "metric_curves": (metrics_figure(network, history, adapter.best_epoch), f"Metrics of {network}"),
    }
    return {
        "parameters": adapter.parameters,
        "best_epoch": adapter.best_epoch,
        **{name: value for name, value in best.items() if name != "epoch" and value is not None},
        **{name: dg.MetadataValue.md(markdown_image(*curve)) for name, curve in curves.items()},
    }


@table_asset(
    stage="train_adapter",
    group_name="adapter",
    kinds={"torch", "duckdb"},
    partitions_def=NETWORK_PARTITIONS,
    pool=GPU_POOL,
    ins=every_partition("music_embeddings", "expanded_clips", "image_embeddings", "images"),
    declared=Declared(code=2, settings=("va_alignment",)),
    checks={"finite": "Every new embedding has only finite numbers."},
)
def adapted_embeddings(
    settings: SettingsResource,
    trained_adapter: pl.DataFrame,
    music_embeddings: pl.DataFrame,
    expanded_clips: pl.DataFrame,
    image_embeddings: pl.DataFrame,
    images: pl.DataFrame,
) -> dg.MaterializeResult[pl.DataFrame]:
    """All music and images in the network's new space: an inner product ranks the images of a clip."""
    import numpy as np

    from emid_assets.adapters.adapted_embeddings import adapted_frame

    weights = settings.lake_folder / trained_adapter["weights_file"][0]
    image_va = on_plane(images, "image_id", image_alignment(images, settings.va_alignment))
    music = all_music_embeddings(music_embeddings, expanded_clips)
    adapted = adapted_frame(weights, music, image_embeddings, settings.device, image_va)
    finite = np.isfinite(adapted["embedding"].to_numpy()).all(axis=1)
    return dg.MaterializeResult(
        value=adapted,
        data_version=dg.DataVersion(
            frame_digest(adapted.drop("embedding"), trained_adapter["weights_sha256"][0])
        ),
        metadata={"music": music.height, "images": image_embeddings.height},
        check_results=[
            check_result("finite", adapted.filter(~finite)["item_id"].to_list(), adapted.height),
        ],
    )
