"""Hyperparameters of a network by a resumable study (Optuna, the extra `tuning`).

Belongs here: what is tried, what a trial is worth (the best validation NDCG@10; the test part is not
looked at), the study's journal in the lake's folder `studies/`, and its trials, which are the table
`tuning_trials`: the report plots them and training reads them.
"""

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from emid_assets.adapters import AdapterError
from emid_assets.adapters.pair_data import PairData, pair_data
from emid_assets.adapters.splits import VALIDATION
from emid_assets.adapters.trained_adapter import Epoch, TrainingSettings, network_class
from emid_assets.adapters.training import train
from emid_assets.matching.fusion import Formula
from emid_assets.media.lake_tables import LakeTables
from emid_assets.settings import Settings
from emid_assets.store.lake import Lake
from emid_assets.store.layout import STUDIES_FOLDER
from emid_assets.store.schemas import TUNING_TRIALS

if TYPE_CHECKING:
    import optuna

UNPRUNED_TRIALS = 5
"""Trials that run to their end before others are given up for being worse than the median."""


class Range(NamedTuple):
    """Values from `low` to `high`: whole numbers where both are; by their logarithm where `log`."""

    low: float
    high: float
    log: bool = False


RANGES: dict[str, Range] = {
    "learning_rate": Range(1e-3, 3e-2, log=True),
    "weight_decay": Range(1e-5, 10.0, log=True),
    "hidden": Range(32, 512, log=True),
    "scale": Range(3.0, 40.0, log=True),
    "id_dropout": Range(0.0, 0.6),
    "negatives": Range(64, 1024, log=True),
    "negative_weight": Range(4.0, 128.0, log=True),
    "history_dropout": Range(0.0, 0.95),
    "mlp": Range(16, 64, log=True),
    "gmf_weight": Range(0.1, 3.0, log=True),
    "feeling": Range(1.0, 12.0, log=True),
    "harmonics": Range(2, 8),
    "dropout": Range(0.0, 0.4),
    "expectation": Range(5.0, 60.0, log=True),
    "sharpness": Range(1.0, 3.0),
}
"""Hyperparameters that a study tries, for the networks that have them. The others stay as they are."""


def tune(
    network: str,
    data: PairData,
    settings: TrainingSettings,
    journal: Path,
    trials: int,
    on_trial: Callable[[int, float | None], None] | None = None,
) -> pl.DataFrame:
    """Go on with a network's study until it has `trials` finished trials.

    The first trial has the network's own values, so that the best is never worse than those. Other
    data, or other settings of training, are another study in the same journal. A trial that a kill
    cut short counts as failed and is not repeated.

    Args:
        network: name in NETWORKS.
        data: pairs with their parts.
        settings: of each trial; its learning rate, weight decay and batch size stay None, so that they
            are the network's to tune.
        journal: file that the study is kept in; made where it is not there.
        trials: finished trials in all, those of earlier calls counted.
        on_trial: called with the number of finished trials and the best value so far.

    Returns:
        TUNING_TRIALS rows of this study, by number.

    Raises:
        AdapterError: Optuna is not installed, or the data has no validation part.
    """
    try:
        import optuna
    except ImportError:
        raise AdapterError("tuning needs Optuna: pip install 'emid-assets[tuning]'") from None
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if not (data.pair_parts == VALIDATION).any():
        raise AdapterError("there is no validation part to tune on: more than one source clip is needed")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    name = f"{network}-{data.digest()[:12]}-{settings.epochs}x{settings.dimension}-{settings.seed}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(
        study_name=name, storage=storage, load_if_exists=True, direction="maximize",
        pruner=optuna.pruners.MedianPruner(UNPRUNED_TRIALS, n_warmup_steps=settings.epochs // 4),
    )  # fmt: skip
    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    own = tunable(network)
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(own)

    def objective(trial: "optuna.Trial") -> float:
        config = {name: _suggest(trial, name) for name in own}

        def report(epoch: Epoch) -> None:
            trial.report(float(epoch["ndcg_at_10"] or 0.0), int(epoch["epoch"] or 0))
            if trial.should_prune():
                raise optuna.TrialPruned

        adapter = train(network, data, settings, config, report)
        return float(adapter.history[adapter.best_epoch - 1]["ndcg_at_10"] or 0.0)

    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    while (done := len(study.get_trials(deepcopy=False, states=finished))) < trials:
        # A sampler of its own for each trial: what is tried next does not depend on when the study was cut.
        study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(study.trials))
        study.optimize(objective, n_trials=1)
        if on_trial is not None:
            complete = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
            on_trial(done + 1, max((float(t.value or 0.0) for t in complete), default=None))
    return _frame(network, study)


def best_trial(trials: pl.DataFrame) -> dict[str, Any]:
    """The row of the completed trial with the largest validation NDCG@10, the earliest of equals."""
    complete = trials.filter(pl.col("state") == "complete")
    return complete.sort("ndcg_at_10", "trial", descending=[True, False]).row(0, named=True)


def tunable(network: str) -> dict[str, Any]:
    """The hyperparameters of a network that a study tries, with their defaults."""
    cls: Any = network_class(network)
    defaults = dataclasses.asdict(cls.Config())
    return {name: defaults[name] for name in RANGES if name in defaults}


def _suggest(trial: "optuna.Trial", name: str) -> float | int:
    low, high, log = RANGES[name]
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)


def _frame(network: str, study: "optuna.Study") -> pl.DataFrame:
    rows = [
        {
            "network": network,
            "study": study.study_name,
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "ndcg_at_10": trial.value
            if trial.value is not None
            else max(trial.intermediate_values.values(), default=None),
            "epochs": len(trial.intermediate_values),
            "hyperparameters": json.dumps(trial.params, sort_keys=True),
        }
        for trial in study.get_trials(deepcopy=False)
    ]
    return TUNING_TRIALS.check(pl.DataFrame(rows, schema=TUNING_TRIALS.empty().schema))


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

    lake = Lake(settings.lake_folder)
    tables = LakeTables.read(
        lake, settings.va_alignment, "music_embeddings", "image_embeddings", "fused_pairs"
    )
    data = pair_data(tables, settings.seed, Formula.of(settings))
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


def tuning_trials(lake: Lake) -> pl.DataFrame:
    """The trials of every network that was tuned: no rows where none was."""
    return lake.read("tuning_trials") if lake.partitions("tuning_trials") else TUNING_TRIALS.empty()


def tuned_hyperparameters(lake: Lake, network: str) -> dict[str, Any]:
    """The hyperparameters of the study's best trial; empty where the network was not tuned."""
    if network not in lake.partitions("tuning_trials"):
        return {}

    found: dict[str, Any] = json.loads(best_trial(lake.read("tuning_trials", [network]))["hyperparameters"])
    return found
