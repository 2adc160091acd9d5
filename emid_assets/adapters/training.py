"""Trains a network: data in, trained adapter out.

Belongs here: the seeded training loop, validation after each epoch, and keeping the best epoch. What a
network computes is in its own file in `networks/`, the data in `pair_data`, saving and loading in
`trained_adapter`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from emid_assets.adapters import AdapterError
from emid_assets.adapters.expected_images import Expectation
from emid_assets.adapters.networks.content_tower import Projection, fit_projection
from emid_assets.adapters.networks.interface import Batch, Items, Network, Teacher
from emid_assets.adapters.networks.row_adam import RowAdam, clip_gradients
from emid_assets.adapters.pair_data import PairData
from emid_assets.adapters.splits import TEST, TRAIN, VALIDATION
from emid_assets.adapters.trained_adapter import (
    Epoch,
    Ids,
    TrainedAdapter,
    TrainingSettings,
    _items,
    _known,
    build_network,
    network_class,
)
from emid_assets.adapters.va_ridge import VaReader, fit_va_reader
from emid_assets.encoders.torch_device import choose_device
from emid_assets.ranking.metrics import evaluate_ranking, inner_product_scores

VALIDATION_QUERIES = 1024
"""Largest number of validation clips for an epoch's metrics; if there are more, a sample is drawn once."""

EPOCH_METRICS = ("precision_at_10", "recall_at_10", "map_at_10", "ndcg_at_10", "mrr_at_10", "hit_rate_at_10")


class NonFiniteLossError(AdapterError):
    """The loss or its gradient is not finite; training has stopped."""


def train(
    network: str,
    data: PairData,
    settings: TrainingSettings | None = None,
    config: dict[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    projection: Projection | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> TrainedAdapter:
    """Train a network and keep the epoch with the best validation NDCG@10 (the first, if tied).

    On the CPU the same data, settings and number of threads give the same bits on the same machine.
    If the validation part has no pairs (a single source clip), metrics are None and the last epoch is
    kept.

    Args:
        network: name in NETWORKS.
        data: pairs with their parts; the test part is not used.
        settings: how to train.
        config: hyperparameters of the network that differ from its defaults.
        on_epoch: called with each epoch's entry when the epoch ends.
        projection: a projection already fitted on the same data, to save time.
        weights: to start from, as `TrainedAdapter.state`; those of another name or shape are ignored.

    Raises:
        NonFiniteLossError: names epoch and batch.
        AdapterError: unknown network or hyperparameter.
        EncoderUnavailableError: this machine does not have the device.
    """
    settings = settings or TrainingSettings()
    device = str(choose_device(settings.device))
    training_clips = np.unique(data.pair_clips[data.pair_parts == TRAIN])
    if projection is None:
        projection = fit_projection(data.music[training_clips], data.images, settings.dimension)
    inputs = _prepare(network, data, training_clips, projection, device)
    clips, images, teacher = inputs.clips, inputs.images, inputs.teacher
    known = _known(projection, settings, data.clip_ids, data.image_ids)

    order = np.random.default_rng(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    validate = _validation(data)
    history: list[Epoch] = []
    best_epoch, best_ndcg = 0, -math.inf
    best_state: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        module = build_network(network, config or {}, known).to(device)
        _start_from(module, weights or {})
        hyperparameters = dataclasses.asdict(module.config)  # type: ignore[call-overload]
        own = {
            name: hyperparameters[name] if getattr(settings, name) is None else getattr(settings, name)
            for name in ("learning_rate", "weight_decay", "batch_clips")
        }
        batch_clips = int(own["batch_clips"])
        optimizers = _optimizers(module, own["learning_rate"], own["weight_decay"])
        steps = settings.epochs * math.ceil(len(training_clips) / batch_clips)
        schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(one, steps) for one in optimizers]
        for epoch in range(1, settings.epochs + 1):
            module.train()
            shuffled = order.permutation(training_clips)
            losses: list[float] = []
            for start in range(0, len(shuffled), batch_clips):
                chosen = shuffled[start : start + batch_clips]
                rows = torch.from_numpy(chosen).to(device)
                taken = clips.take(rows)
                batch = Batch(
                    clips=taken,
                    images=images,
                    positives=taken.history - 1,
                    teacher=None if teacher is None else teacher(chosen, generator),
                    generator=generator,
                )
                where = f"network {network}, epoch {epoch}, batch {len(losses) + 1}"
                losses.append(_step(module, optimizers, batch, settings.gradient_norm, where))
                for schedule in schedules:
                    schedule.step()
            module.eval()
            entry = {"epoch": epoch, "loss": float(np.mean(losses)), **validate(module, clips, images)}
            history.append(entry)
            ndcg = entry["ndcg_at_10"]
            if ndcg is None or ndcg > best_ndcg:
                best_epoch, best_ndcg = epoch, -math.inf if ndcg is None else float(ndcg)
                best_state = {
                    name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()
                }
            if on_epoch is not None:
                on_epoch(entry)
    return TrainedAdapter(
        network=network,
        config=hyperparameters,
        settings=settings,
        projection=projection,
        state=best_state,
        music_reader=inputs.music_reader,
        image_reader=inputs.image_reader,
        expectation=inputs.expectation,
        known_va=clips.va.cpu().numpy(),
        known_pairs=clips.history.cpu().numpy(),
        clip_ids=list(data.clip_ids),
        image_ids=list(data.image_ids),
        clip_parts=list(data.clip_parts),
        data_version=data.digest(),
        best_epoch=best_epoch,
        history=history,
    )


def _start_from(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = module.state_dict()
    fitting = {
        name: tensor
        for name, tensor in state.items()
        if name in own and own[name].shape == tensor.shape and own[name].dtype == tensor.dtype
    }
    module.load_state_dict(fitting, strict=False)


def _optimizers(module: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """AdamW, and row-wise AdamW for tables of which a batch reads few rows."""
    tables = {
        id(table.weight): table.weight
        for table in module.modules()
        if isinstance(table, nn.Embedding) and table.sparse
    }
    others = [parameter for parameter in module.parameters() if id(parameter) not in tables]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay, fused=True)
    ]
    if tables:
        optimizers.append(RowAdam(tables.values(), lr, weight_decay))
    return optimizers


def _step(
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Batch,
    gradient_norm: float,
    where: str,
) -> float:
    loss = cast(Network, module).loss(batch)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NonFiniteLossError(f"{where}: the loss is {value}; lower the learning rate or check the data")
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = clip_gradients(module.parameters(), gradient_norm)
    if not math.isfinite(norm):
        raise NonFiniteLossError(f"{where}: the gradient's norm is {norm}; lower the learning rate")
    for optimizer in optimizers:
        optimizer.step()
    return value


@dataclass(frozen=True)
class _Inputs:
    clips: Items
    images: Items
    music_reader: VaReader
    image_reader: VaReader
    expectation: Expectation | None
    teacher: Callable[[Ids, torch.Generator], Teacher] | None


def _prepare(
    network: str, data: PairData, training_clips: Ids, projection: Projection, device: str
) -> _Inputs:
    music, images = projection.music(data.music), projection.images(data.images)
    sources = [data.source_ids[clip] for clip in training_clips]
    music_reader, cross_fitted = fit_va_reader(music[training_clips], data.music_va[training_clips], sources)
    image_reader, _ = fit_va_reader(images, data.image_va, data.image_ids)
    va = music_reader.read(music)
    va[training_clips] = cross_fitted
    errors = data.music_va[training_clips] - cross_fitted
    clip_numbers, image_numbers = np.arange(1, len(music) + 1), np.arange(1, len(images) + 1)
    nothing = np.zeros((len(images), 0), dtype=np.int64)
    cls: Any = network_class(network)
    clips = _items(music, clip_numbers, va, _histories(data), device)
    pictures = _items(images, image_numbers, data.image_va.astype(np.float32), nothing, device)
    expectation, teacher = None, None
    if data.formula is not None and cls.learns_from_formula:
        clip_sd = None if data.music_sd is None else data.music_sd[training_clips]
        expectation = Expectation.of(data.formula, errors, images, clip_sd)
        # The test part is not used.
        seen = np.flatnonzero(np.asarray(data.clip_parts, dtype=np.str_) != TEST)
        plane = expectation.plane(pictures.va, data.image_sd)
        of_seen = expectation.teacher_of(data.music[seen], data.images, plane)
        rows = torch.from_numpy(seen).to(device)
        expected = torch.zeros_like(clips.features)
        expected[rows] = expectation.vectors(expectation.expected(of_seen, clips.va[rows]), pictures.features)
        clips = clips._replace(expected=expected)
        place = np.zeros(len(music), dtype=np.int64)
        place[seen] = np.arange(len(seen))

        def teacher(chosen: Ids, generator: torch.Generator) -> Teacher:
            return of_seen.take(torch.from_numpy(place[chosen]).to(device))._replace(generator=generator)

    return _Inputs(clips, pictures, music_reader, image_reader, expectation, teacher)


def _histories(data: PairData) -> Ids:
    """(N, m) ids of each clip's training images, best T first, padded with 0."""
    chosen = np.flatnonzero(data.pair_parts == TRAIN)
    chosen = chosen[np.lexsort((-data.fused_scores[chosen], data.pair_clips[chosen]))]
    clips = data.pair_clips[chosen]
    counts = np.bincount(clips, minlength=len(data.music))
    place = np.arange(len(chosen)) - np.repeat(np.cumsum(counts) - counts, counts)
    histories = np.zeros((len(data.music), int(counts.max())), dtype=np.int64)
    histories[clips, place] = data.pair_images[chosen] + 1
    return histories


def _validation(data: PairData) -> Callable[[nn.Module, Items, Items], dict[str, float | None]]:
    """A function that evaluates a network on the validation part, without the pairs it was trained on."""
    relevance = data.relevance(VALIDATION)
    rows = relevance.queries()
    if len(rows) > VALIDATION_QUERIES:
        rows = np.sort(np.random.default_rng(0).choice(rows, VALIDATION_QUERIES, replace=False))
    trained_on = data.relevance(TRAIN)
    excluded = trained_on if trained_on.counts(rows).any() else None

    def validate(module: nn.Module, clips: Items, images: Items) -> dict[str, float | None]:
        if not len(rows):
            return dict.fromkeys(EPOCH_METRICS)
        with torch.inference_mode():
            p, q = cast(Network, module).embeddings(
                clips.take(torch.from_numpy(rows).to(clips.ids.device)), images
            )
        queries = np.zeros((len(data.music), p.shape[1]), dtype=np.float32)
        queries[rows] = p.cpu().numpy()
        score_rows = inner_product_scores(queries, q.cpu().numpy())
        metrics = evaluate_ranking(score_rows, rows, relevance, 10, excluded, with_auc=False).metrics
        return {name: metrics[name] for name in EPOCH_METRICS}

    return validate
