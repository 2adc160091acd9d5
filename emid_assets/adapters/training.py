"""The frame for networks: data in, trained adapter out, and its weights file.

Belongs here: the seeded training loop, validation each epoch, keeping the best epoch, saving and
loading. What a network computes is in its own file; frames of the lake are in `frames`.
"""

import dataclasses
import hashlib
import importlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from emid_assets.adapters import NETWORKS
from emid_assets.adapters.content import Projection, fit_projection
from emid_assets.adapters.network import Batch, Items, Known, Network
from emid_assets.adapters.retrieval import Relevance, evaluate_ranking, inner_product_scores
from emid_assets.adapters.splits import TRAIN, VALIDATION
from emid_assets.store.schemas import EPOCH_TYPE, TRAINED_ADAPTER

Epoch = dict[str, int | float | None]
Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

EXTRA_CHANNELS = 4
"""Numbers that networks may add to the factors: biases, their ones, a valence-arousal channel.

Embeddings of all networks are filled with zeros to one width, `dimension + EXTRA_CHANNELS`, so
that one table holds them; zeros change no inner product.
"""

EPOCH_METRICS = ("precision_at_10", "recall_at_10", "map_at_10", "ndcg_at_10", "mrr_at_10", "hit_rate_at_10")


class AdapterError(ValueError):
    """An adapter cannot be trained, loaded or applied."""


class NonFiniteLossError(AdapterError):
    """The loss or its gradient is not finite: training stopped."""


@dataclass(frozen=True)
class PairData:
    """What a network learns from.

    Attributes:
        clip_ids, image_ids: names of the rows of `music` and `images`.
        music: (N, d) float32 unit embeddings. images: (M, d) the same.
        pair_clips, pair_images: (P,) int64 rows of the paired clip and image.
        fused_scores: (P,) float32, T of each pair.
        pair_parts: (P,) str: `train`, `validation` or `test`.
        clip_parts: (N,) str: the part of each clip where the split goes by source.
        music_va, image_va: (N, 2) and (M, 2) float64 aligned valence and arousal, for the
            networks that use them.
    """

    clip_ids: list[str]
    image_ids: list[str]
    music: Floats
    images: Floats
    pair_clips: Ids
    pair_images: Ids
    fused_scores: Floats
    pair_parts: NDArray[np.str_]
    clip_parts: list[str]
    music_va: NDArray[np.float64] | None = None
    image_va: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if not (self.pair_parts == TRAIN).any():
            raise AdapterError("there is no pair to train on: match music and images first")
        for name, embeddings in (("music", self.music), ("image", self.images)):
            finite = np.isfinite(embeddings).all(axis=1)
            if not finite.all():
                row = int(np.argmin(finite))
                ids = self.clip_ids if name == "music" else self.image_ids
                raise AdapterError(f"the embedding of {name} {ids[row]!r} is not finite: encode it again")

    def relevance(self, part: str) -> Relevance:
        """The pairs of one part."""
        chosen = self.pair_parts == part
        return Relevance.of_pairs(self.pair_clips[chosen], self.pair_images[chosen], len(self.images))


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained, whatever it computes.

    Attributes:
        dimension: features of the projected space (PCA), so the length of the factors.
        epochs: passes over the training clips.
        learning_rate: step of Adam.
        weight_decay: AdamW's.
        batch_clips: clips in a batch.
        gradient_norm: gradients are scaled down to this norm.
        seed: of initialisation, order and sampling.
        device: `cpu`, `cuda`, `mps` or `auto`.
    """

    dimension: int = 256
    epochs: int = 50
    learning_rate: float = 0.003
    weight_decay: float = 1e-4
    batch_clips: int = 1024
    gradient_norm: float = 1.0
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class TrainedAdapter:
    """A trained network with all that is needed to apply it again.

    Attributes:
        network: name in NETWORKS.
        config: the network's hyperparameters.
        settings: how it was trained.
        projection: from the encoder's space to features.
        state: the network's weights, on the CPU.
        clip_ids, image_ids: the items known in training; only they have free factors.
        clip_parts: (N,) part of each clip.
        best_epoch: the epoch whose weights these are, counted from 1.
        history: one entry an epoch, fields of EPOCH_TYPE; metrics None without validation.
    """

    network: str
    config: dict[str, Any]
    settings: TrainingSettings
    projection: Projection
    state: dict[str, Tensor]
    clip_ids: list[str]
    image_ids: list[str]
    clip_parts: list[str]
    best_epoch: int
    history: list[Epoch] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """Number of trained numbers."""
        return sum(tensor.numel() for tensor in self.state.values())

    @property
    def width(self) -> int:
        """e, the length of the new embeddings."""
        return self.settings.dimension + EXTRA_CHANNELS

    def part_of(self) -> dict[str, str]:
        """Clip id → part."""
        return dict(zip(self.clip_ids, self.clip_parts, strict=True))

    def module(self, device: str = "cpu") -> "nn.Module":
        """The network with these weights, ready to be applied."""
        known = Known(self.projection.basis.shape[1], len(self.clip_ids), len(self.image_ids))
        network = build_network(self.network, self.config, known)
        network.load_state_dict(self.state)
        return network.to(device).eval()

    def save(self, path: Path) -> str:
        """Write a safetensors file (config and ids in its metadata) and return its sha256.

        The file is written beside its place and renamed, so no reader sees half of it. Equal
        adapters give equal bytes.
        """
        description = {
            "network": self.network,
            "config": self.config,
            "settings": dataclasses.asdict(self.settings),
            "clip_ids": self.clip_ids,
            "image_ids": self.image_ids,
            "clip_parts": self.clip_parts,
            "best_epoch": self.best_epoch,
            "history": self.history,
        }
        tensors = {f"network.{name}": tensor.contiguous() for name, tensor in self.state.items()}
        for name in ("music_mean", "image_mean", "basis"):
            tensors[f"projection.{name}"] = torch.from_numpy(getattr(self.projection, name))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        save_file(tensors, partial, metadata={"adapter": json.dumps(description, sort_keys=True)})
        partial.replace(path)
        return file_sha256(path)

    @classmethod
    def load(cls, path: Path) -> "TrainedAdapter":
        """Read what `save` wrote; runs no code from the file.

        Raises:
            AdapterError: the file is no adapter, or of a network that does not exist.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            description = json.loads(metadata["adapter"])
        except Exception as error:
            raise AdapterError(f"{path} is not an adapter's weights file: {error}") from error
        projection = {
            name: tensors[f"projection.{name}"].numpy() for name in ("music_mean", "image_mean", "basis")
        }
        state = {
            name.removeprefix("network."): tensor
            for name, tensor in tensors.items()
            if name.startswith("network.")
        }
        settings = TrainingSettings(**description.pop("settings"))
        return cls(projection=Projection(**projection), state=state, settings=settings, **description)

    def embed(
        self,
        clip_ids: Sequence[str],
        music: Floats,
        image_ids: Sequence[str],
        images: Floats,
        device: str = "cpu",
    ) -> tuple[Floats, Floats]:
        """New embeddings (N, e) of any clips and (M, e) of any images, known or not.

        Args:
            clip_ids: names of the rows of `music`; those known in training get their free factors.
            music: (N, d) unit embeddings of the encoder that the adapter was trained on.
            image_ids: names of the rows of `images`.
            images: (M, d) unit embeddings.
            device: where to compute.

        Raises:
            AdapterError: the encoder's dimension is another one.
        """
        d = len(self.projection.music_mean)
        for name, embeddings in (("music", music), ("image", images)):
            if embeddings.shape[1] != d:
                raise AdapterError(
                    f"the adapter {self.network} was trained on embeddings of {d} numbers, these {name} "
                    f"embeddings have {embeddings.shape[1]}: train it again on this encoder"
                )
        network = cast(Network, self.module(device))
        clips = _items(self.projection.music(music), clip_ids, self.clip_ids, device)
        pictures = _items(self.projection.images(images), image_ids, self.image_ids, device)
        with torch.inference_mode():
            p, q = network.embeddings(clips, pictures)
        fill = self.width - p.shape[1]
        return nn.functional.pad(p, (0, fill)).cpu().numpy(), nn.functional.pad(q, (0, fill)).cpu().numpy()

    def manifest_frame(self, weights_file: str, weights_sha256: str) -> pl.DataFrame:
        """The row of `trained_adapter` for weights that `save` wrote."""
        row = {
            "network": self.network,
            "weights_file": weights_file,
            "weights_sha256": weights_sha256,
            "dimension": self.width,
            "parameters": self.parameters,
            "seed": self.settings.seed,
            "best_epoch": self.best_epoch,
            "history": self.history,
        }
        schema = {name: dtype for name, (dtype, _) in TRAINED_ADAPTER.columns.items()}
        return TRAINED_ADAPTER.check(pl.DataFrame([row], schema={**schema, "history": EPOCH_TYPE}))


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def network_class(name: str) -> type[nn.Module]:
    """The class of a network.

    Raises:
        AdapterError: no network has this name.
    """
    if name not in NETWORKS:
        raise AdapterError(f"unknown network {name!r}: use one of {', '.join(NETWORKS)}")
    module, _, attribute = NETWORKS[name].partition(":")
    return cast(type[nn.Module], getattr(importlib.import_module(module), attribute))


def build_network(name: str, config: dict[str, Any], known: Known) -> nn.Module:
    """A network with fresh weights; `config` overrides its defaults.

    Raises:
        AdapterError: the network has no such hyperparameter.
    """
    cls: Any = network_class(name)
    try:
        hyperparameters = cls.Config(**config)
    except TypeError as error:
        allowed = ", ".join(entry.name for entry in dataclasses.fields(cls.Config))
        raise AdapterError(f"network {name}: {error}; its hyperparameters are {allowed}") from error
    return cast(nn.Module, cls(hyperparameters, known))


def train(
    network: str,
    data: PairData,
    settings: TrainingSettings | None = None,
    config: dict[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    projection: Projection | None = None,
) -> TrainedAdapter:
    """Train a network and keep the epoch with the best validation NDCG@10 (the earliest of equals).

    On the CPU the same data, settings and number of threads give the same bits on the same machine.
    Where no pair is in the validation part (a single source clip), metrics are None and the last
    epoch is kept.

    Args:
        network: name in NETWORKS.
        data: pairs with their parts; the test part is not looked at.
        settings: how to train.
        config: hyperparameters of the network that differ from its defaults.
        on_epoch: called with each epoch's entry as it ends.
        projection: one fitted before on the same data, to save its cost.

    Raises:
        NonFiniteLossError: names epoch and batch.
        AdapterError: unknown network or hyperparameter.
    """
    settings = settings or TrainingSettings()
    device = resolve_device(settings.device)
    training_clips = np.unique(data.pair_clips[data.pair_parts == TRAIN])
    if projection is None:
        projection = fit_projection(data.music[training_clips], data.images, settings.dimension)
    clips = _items(projection.music(data.music), data.clip_ids, data.clip_ids, device)
    images = _items(projection.images(data.images), data.image_ids, data.image_ids, device)
    positives, fused = _positives(data)
    known = Known(projection.basis.shape[1], len(data.clip_ids), len(data.image_ids))

    order = np.random.default_rng(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    validate = _validation(data)
    history: list[Epoch] = []
    best_epoch, best_ndcg = 0, -math.inf
    best_state: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        module = build_network(network, config or {}, known).to(device)
        hyperparameters = dataclasses.asdict(module.config)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        for epoch in range(1, settings.epochs + 1):
            module.train()
            shuffled = order.permutation(training_clips)
            losses: list[float] = []
            for start in range(0, len(shuffled), settings.batch_clips):
                chosen = shuffled[start : start + settings.batch_clips]
                rows = torch.from_numpy(chosen).to(device)
                batch = Batch(
                    clips.take(rows),
                    images,
                    torch.from_numpy(positives[chosen]).to(device),
                    torch.from_numpy(fused[chosen]).to(device),
                    generator,
                )
                where = f"network {network}, epoch {epoch}, batch {len(losses) + 1}"
                losses.append(_step(module, optimizer, batch, settings.gradient_norm, where))
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
        clip_ids=list(data.clip_ids),
        image_ids=list(data.image_ids),
        clip_parts=list(data.clip_parts),
        best_epoch=best_epoch,
        history=history,
    )


def resolve_device(device: str) -> str:
    """`auto` is CUDA, then MPS, then the CPU; anything else stays as it is."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _step(
    module: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, gradient_norm: float, where: str
) -> float:
    loss = cast(Network, module).loss(batch)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NonFiniteLossError(f"{where}: the loss is {value}; lower the learning rate or look at the data")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = float(nn.utils.clip_grad_norm_(module.parameters(), gradient_norm))
    if not math.isfinite(norm):
        raise NonFiniteLossError(f"{where}: the gradient's norm is {norm}; lower the learning rate")
    optimizer.step()
    return value


def _items(features: Floats, ids: Sequence[str], known: Sequence[str], device: str) -> Items:
    number = {name: place for place, name in enumerate(known, start=1)}
    numbers = torch.tensor([number.get(name, 0) for name in ids], dtype=torch.int64)
    return Items(torch.from_numpy(features).to(device), numbers.to(device))


def _positives(data: PairData) -> tuple[Ids, Floats]:
    """Training images of each clip, (N, m) padded with -1, and their T."""
    chosen = np.flatnonzero(data.pair_parts == TRAIN)
    chosen = chosen[np.lexsort((-data.fused_scores[chosen], data.pair_clips[chosen]))]
    clips = data.pair_clips[chosen]
    counts = np.bincount(clips, minlength=len(data.music))
    place = np.arange(len(chosen)) - np.repeat(np.cumsum(counts) - counts, counts)
    positives = np.full((len(data.music), int(counts.max())), -1, dtype=np.int64)
    fused = np.zeros(positives.shape, dtype=np.float32)
    positives[clips, place] = data.pair_images[chosen]
    fused[clips, place] = data.fused_scores[chosen]
    return positives, fused


def _validation(data: PairData) -> Callable[[nn.Module, Items, Items], dict[str, float | None]]:
    """A function that measures a network on the validation part, without the pairs it was trained on."""
    relevance = data.relevance(VALIDATION)
    rows = relevance.queries()
    trained_on = data.relevance(TRAIN)
    excluded = trained_on if trained_on.counts(rows).any() else None

    def validate(module: nn.Module, clips: Items, images: Items) -> dict[str, float | None]:
        if not len(rows):
            return dict.fromkeys(EPOCH_METRICS)
        with torch.inference_mode():
            p, q = cast(Network, module).embeddings(clips.take(torch.from_numpy(rows).to(clips.ids.device)), images)
        queries = np.zeros((len(data.music), p.shape[1]), dtype=np.float32)
        queries[rows] = p.cpu().numpy()
        score_rows = inner_product_scores(queries, q.cpu().numpy())
        metrics = evaluate_ranking(score_rows, rows, relevance, 10, excluded, with_auc=False).metrics
        return {name: metrics[name] for name in EPOCH_METRICS}

    return validate
