"""Tunes the hyperparameters of a network with a resumable study (Optuna, the extra `tuning`).

Belongs here: the search space, the value of a trial (the best validation NDCG@10; the test part is not
used), the study's journal in the lake's folder `studies/`, and its trials in the table `tuning_trials`,
which the report plots and training reads.
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
from emid_assets.adapters.training import NonFiniteLossError, train
from emid_assets.matching.fusion import Formula
from emid_assets.media.lake_tables import LakeTables
from emid_assets.settings import Settings
from emid_assets.store.lake import Lake
from emid_assets.store.layout import STUDIES_FOLDER
from emid_assets.store.schemas import TUNING_TRIALS

if TYPE_CHECKING:
    import optuna

UNPRUNED_TRIALS = 5
"""Trials that run to completion before others are pruned for being worse than the median."""

DIVERGED = "diverged"
"""Attribute of a trial whose loss was not finite: where and why."""


class Range(NamedTuple):
    """Values from `low` to `high`: integers if both are integers; on a log scale if `log`."""

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
"""Hyperparameters that a study tries, for the networks that have them. The others keep their defaults."""


def tune(
    network: str,
    data: PairData,
    settings: TrainingSettings,
    journal: Path,
    trials: int,
    on_trial: Callable[[int, float | None], None] | None = None,
) -> pl.DataFrame:
    """Start or resume a network's study until it has `trials` finished trials.

    The network's defaults are always tried, first and to the end, so the best trial is never worse than
    those. Other data or other training settings are a separate study in the same journal. An interrupted
    trial counts as failed and is not repeated, unless it had the defaults. A trial whose loss is not finite
    counts as failed, and is finished.

    Args:
        network: name in NETWORKS.
        data: pairs with their parts.
        settings: of each trial; learning rate, weight decay and batch size must be None, so that the
            network's own values apply and can be tuned.
        journal: file that stores the study; created if it does not exist.
        trials: total number of finished trials, including those of earlier calls.
        on_trial: called with the number of finished trials and the best value.

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(
        study_name=study_name(network, data, settings), storage=storage,
        load_if_exists=True, direction="maximize",
        pruner=optuna.pruners.MedianPruner(UNPRUNED_TRIALS, n_warmup_steps=settings.epochs // 4),
    )  # fmt: skip
    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def waiting() -> bool:
        return bool(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.WAITING]))

    own = tunable(network)
    if not waiting() and not any(trial.params == own for trial in _finished(study)):
        study.enqueue_trial(own)

    def objective(trial: "optuna.Trial") -> float:
        config = {name: _suggest(trial, name) for name in own}

        def report(epoch: Epoch) -> None:
            trial.report(float(epoch["ndcg_at_10"] or 0.0), int(epoch["epoch"] or 0))
            if config != own and trial.should_prune():
                raise optuna.TrialPruned

        try:
            adapter = train(network, data, settings, config, report)
        except NonFiniteLossError as error:
            trial.set_user_attr(DIVERGED, str(error))
            raise
        return float(adapter.history[adapter.best_epoch - 1]["ndcg_at_10"] or 0.0)

    while (done := len(_finished(study))) < trials or waiting():
        # A new sampler for each trial, so that the next trial does not depend on where a study was resumed.
        study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(study.trials))
        study.optimize(objective, n_trials=1, catch=NonFiniteLossError)
        if on_trial is not None:
            complete = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
            on_trial(done + 1, max((float(t.value or 0.0) for t in complete), default=None))
    return _frame(network, study)


def _finished(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    """The trials that were not interrupted: complete, pruned, or of a loss that was not finite."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED") or DIVERGED in trial.user_attrs
    ]


def study_name(network: str, data: PairData, settings: TrainingSettings) -> str:
    """The name of a study: the same only for the same data, split, epochs and dimension."""
    return f"{network}-{data.digest()[:12]}-{settings.epochs}x{settings.dimension}-{settings.seed}"


def best_trial(trials: pl.DataFrame) -> dict[str, Any] | None:
    """The row of the completed trial with the largest validation NDCG@10 (the first, if tied), if any."""
    complete = trials.filter(pl.col("state") == "complete")
    if complete.is_empty():
        return None
    return complete.sort("ndcg_at_10", "trial", descending=[True, False]).row(0, named=True)


def own_trial(network: str, trials: pl.DataFrame) -> dict[str, Any] | None:
    """The row of the completed trial with the network's own values, if any."""
    own = json.dumps(tunable(network), sort_keys=True)
    of_own = trials.filter(pl.col("state") == "complete", pl.col("hyperparameters") == own)
    return best_trial(of_own)


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
    """Start or resume the network's study on the lake's pairs; arguments and result as in `tune`.

    Raises:
        LakeError: the pairs have not been built.
        AdapterError: as in `tune`.
    """

    lake = Lake(settings.lake_folder)
    tables = LakeTables.read(
        lake, settings.va_alignment, "music_embeddings", "image_embeddings", "fused_pairs"
    )
    data = pair_data(tables, settings.seed, Formula.of(settings))
    rows = tune(
        network,
        data,
        dataclasses.replace(TrainingSettings.of(settings), learning_rate=None),
        lake.root / STUDIES_FOLDER / f"{network}.journal",
        trials,
        on_trial,
    )
    lake.write("tuning_trials", network, rows)
    lake.rebuild_catalogue()
    return rows


def tuning_trials(lake: Lake) -> pl.DataFrame:
    """The trials of all tuned networks; no rows if there are none."""
    return lake.read("tuning_trials") if lake.partitions("tuning_trials") else TUNING_TRIALS.empty()


def tuned_hyperparameters(lake: Lake, network: str, study: str) -> tuple[dict[str, Any], str]:
    """The hyperparameters of the best trial of a study, if that is the study that the lake holds.

    A study of other data has validated on what is tested here, since its split is another.

    Args:
        lake: with the trials of `emid tune`.
        network: its name.
        study: `study_name` of the training that is to use them.

    Returns:
        The hyperparameters, empty for the network's own; and which they are and why, in words.
    """
    own = "the network's own"
    if network not in lake.partitions("tuning_trials"):
        return {}, own
    rows = lake.read("tuning_trials", [network])
    best = best_trial(rows)
    if best is None:
        return {}, f"{own}: no trial of `emid tune {network}` is complete"
    if best["study"] != study:
        return {}, (
            f"{own}: `emid tune {network}` was run on other pairs, or with another seed, number of epochs or "
            f"dimension (its study is {best['study']}, this training {study}); run it again to use its result"
        )
    found: dict[str, Any] = json.loads(best["hyperparameters"])
    return found, f"of trial {best['trial']} of the study {study}"
