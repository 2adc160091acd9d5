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
from emid_assets.adapters.expectation import Expectation
from emid_assets.adapters.formula import Formula
from emid_assets.adapters.network import Batch, Items, Known, Network, PairScorer, Teacher
from emid_assets.adapters.retrieval import Relevance, evaluate_ranking, inner_product_scores
from emid_assets.adapters.row_adam import RowAdam, clip_gradients
from emid_assets.adapters.splits import TEST, TRAIN, VALIDATION
from emid_assets.adapters.va_reader import VaReader, fit_va_reader
from emid_assets.store.schemas import EPOCH_TYPE, TRAINED_ADAPTER

Epoch = dict[str, int | float | None]
Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

EXTRA_CHANNELS = 20
"""Numbers that networks may add to the factors: biases, their ones, a channel for feeling.

Embeddings of all networks are filled with zeros to one width, `dimension + EXTRA_CHANNELS`, so
that one table holds them; zeros change no inner product.
"""

VALIDATION_QUERIES = 1024
"""Validation clips that an epoch's metrics are measured on, where there are more: drawn once."""

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
        source_ids: (N,) source of each clip.
        music: (N, d) float32 unit embeddings. images: (M, d) the same.
        music_va, image_va: (N, 2) and (M, 2) float64 aligned valence and arousal. Those of clips
            outside the training part are not read.
        pair_clips, pair_images: (P,) int64 rows of the paired clip and image.
        fused_scores: (P,) float32, T of each pair.
        pair_parts: (P,) str: `train`, `validation` or `test`.
        clip_parts: (N,) str: the part of each clip where the split goes by source.
        formula: what made the pairs; networks that learn from it do with pairs alone where it is None.
    """

    clip_ids: list[str]
    image_ids: list[str]
    source_ids: list[str]
    music: Floats
    images: Floats
    music_va: NDArray[np.float64]
    image_va: NDArray[np.float64]
    pair_clips: Ids
    pair_images: Ids
    fused_scores: Floats
    pair_parts: NDArray[np.str_]
    clip_parts: list[str]
    formula: Formula | None = None

    def __post_init__(self) -> None:
        if not (self.pair_parts == TRAIN).any():
            raise AdapterError("there is no pair to train on: match music and images first")
        for name, embeddings in (("music", self.music), ("image", self.images)):
            finite = np.isfinite(embeddings).all(axis=1)
            if not finite.all():
                row = int(np.argmin(finite))
                ids = self.clip_ids if name == "music" else self.image_ids
                raise AdapterError(f"the embedding of {name} {ids[row]!r} is not finite: encode it again")

    def digest(self) -> str:
        """Hex sha256 of all that is learnt from and measured on: the data's version."""
        digest = hashlib.sha256(json.dumps([self.clip_ids, self.image_ids, self.source_ids]).encode())
        of_pairs = (self.pair_clips, self.pair_images, self.fused_scores, self.pair_parts)
        order = np.lexsort((self.pair_images, self.pair_clips))  # that of the rows means nothing
        arrays: list[NDArray[Any]] = [self.music, self.images, self.music_va, self.image_va]
        for array in arrays + [column[order] for column in of_pairs]:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def relevance(self, part: str) -> Relevance:
        """The pairs of one part."""
        chosen = self.pair_parts == part
        return Relevance.of_pairs(self.pair_clips[chosen], self.pair_images[chosen], len(self.images))


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained, whatever it computes.

    Attributes:
        dimension: features of the projected space (PCA) that are kept.
        learned: leading features that a network may change; the rest stays frozen.
        epochs: passes over the training clips.
        learning_rate: first step of Adam, which falls to zero by a cosine over the epochs; None for
            the network's own.
        weight_decay: AdamW's; None for the network's own.
        batch_clips: clips in a batch; None for the network's own.
        gradient_norm: gradients are scaled down to this norm.
        seed: of initialisation, order and sampling.
        device: `cpu`, `cuda`, `mps` or `auto`.
    """

    dimension: int = 256
    learned: int = 256
    epochs: int = 50
    learning_rate: float | None = None
    weight_decay: float | None = None
    batch_clips: int | None = None
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
        music_reader, image_reader: VA from features, for items without.
        known_va: (N, 2) float32, VA of the known clips as read by a ridge that never saw their source.
        expectation: what the network expects of a clip by the formula; None where it does not read it.
        known_pairs: (N, m) int64 ids of the images that each clip was paired with in training, 0 as
            filling: its history.
        clip_ids, image_ids: the items known in training; only they have free factors.
        clip_parts: (N,) part of each clip.
        data_version: digest of the data that it was trained on.
        best_epoch: the epoch whose weights these are, counted from 1.
        history: one entry an epoch, fields of EPOCH_TYPE; metrics None without validation.
    """

    network: str
    config: dict[str, Any]
    settings: TrainingSettings
    projection: Projection
    state: dict[str, Tensor]
    music_reader: VaReader
    image_reader: VaReader
    expectation: Expectation | None
    known_va: Floats
    known_pairs: Ids
    clip_ids: list[str]
    image_ids: list[str]
    clip_parts: list[str]
    data_version: str
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

    @property
    def scores_pairs(self) -> bool:
        """Whether the network's score of a pair is more than the inner product of its embeddings."""
        return issubclass(network_class(self.network), PairScorer)

    def part_of(self) -> dict[str, str]:
        """Clip id → part."""
        return dict(zip(self.clip_ids, self.clip_parts, strict=True))

    def module(self, device: str = "cpu") -> "nn.Module":
        """The network with these weights, ready to be applied."""
        known = _known(self.projection, self.settings, self.clip_ids, self.image_ids)
        network = build_network(self.network, self.config, known)
        network.load_state_dict(self.state)
        return network.to(device).eval()

    def without_known_items(self) -> "TrainedAdapter":
        """The same adapter without what it knows of single items: small, and the same for unknown ones."""
        nobody = _known(self.projection, self.settings, [], [])
        shapes = build_network(self.network, self.config, nobody).state_dict()
        return dataclasses.replace(
            self,
            # The first row of a table of free factors is that of unknown items.
            state={
                name: self.state[name] if not like.dim() else self.state[name][: len(like)].clone()
                for name, like in shapes.items()
            },
            known_va=self.known_va[:0],
            known_pairs=self.known_pairs[:0],
            clip_ids=[],
            image_ids=[],
            clip_parts=[],
        )

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
            "data_version": self.data_version,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "formula": None if self.expectation is None else dataclasses.asdict(self.expectation.formula),
        }
        arrays = {
            "known.va": self.known_va,
            "known.pairs": self.known_pairs,
            **{f"projection.{name}": value for name, value in vars(self.projection).items()},
            **{f"music_reader.{name}": value for name, value in vars(self.music_reader).items()},
            **{f"image_reader.{name}": value for name, value in vars(self.image_reader).items()},
        }
        if self.expectation is not None:
            arrays |= {
                "expectation.errors": self.expectation.errors,
                "expectation.precision": self.expectation.precision,
            }
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        tensors |= {f"network.{name}": tensor.contiguous() for name, tensor in self.state.items()}
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

        def part(prefix: str) -> dict[str, Tensor]:
            start = f"{prefix}."
            return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}

        def arrays(prefix: str) -> dict[str, Any]:
            return {name: tensor.numpy() for name, tensor in part(prefix).items()}

        try:
            formula = description.pop("formula")
            adapter = cls(
                projection=Projection(**arrays("projection")),
                state=part("network"),
                music_reader=VaReader(**arrays("music_reader")),
                image_reader=VaReader(**arrays("image_reader")),
                expectation=None
                if formula is None
                else Expectation(Formula(**formula), **arrays("expectation")),
                known_va=tensors["known.va"].numpy(),
                known_pairs=tensors["known.pairs"].numpy(),
                settings=TrainingSettings(**description.pop("settings")),
                **description,
            )
            adapter.module()
        except (KeyError, TypeError, RuntimeError, AdapterError) as error:
            reason = " ".join(str(error).split())
            raise AdapterError(
                f"{path} was written by another version of the networks ({reason}): train it again"
            ) from error
        return adapter

    def embed(
        self,
        clip_ids: Sequence[str],
        music: Floats,
        image_ids: Sequence[str],
        images: Floats,
        image_va: NDArray[np.float64] | None = None,
        device: str = "cpu",
    ) -> tuple[Floats, Floats]:
        """New embeddings (N, e) of any clips and (M, e) of any images, known or not.

        A network that reads what the formula expects of a clip looks for it among these images.

        Args:
            clip_ids: names of the rows of `music`; those known in training get their free factors.
            music: (N, d) unit embeddings of the encoder that the adapter was trained on.
            image_ids: names of the rows of `images`.
            images: (M, d) unit embeddings.
            image_va: (M, 2) aligned VA of the images; read from the embeddings where it is None.
            device: where to compute.

        Raises:
            AdapterError: the encoder's dimension is another one.
        """
        clips = self.music_items(clip_ids, music, device)
        pictures = self.image_items(image_ids, images, image_va, device)
        if self.expectation is not None:
            teacher = self.expectation.teacher(*self.expectation.formula.semantic(music, images), device)
            expected = self.expectation.vectors(teacher, clips.va, pictures.features, pictures.va)
            clips = clips._replace(expected=expected)
        return self._embed(clips, pictures, device)

    def _embed(self, clips: Items, images: Items, device: str = "cpu") -> tuple[Floats, Floats]:
        network = cast(Network, self.module(device))
        with torch.inference_mode():
            p, q = network.embeddings(clips, images)
            fill = self.width - p.shape[1]
            p, q = nn.functional.pad(p, (0, fill)), nn.functional.pad(q, (0, fill))
        return p.cpu().numpy(), q.cpu().numpy()

    def embed_clip(
        self, embedding: Floats, scores: Floats, frozen: Floats, image_va: NDArray[np.float64]
    ) -> Floats:
        """New embedding (e,) of a clip that is not known, as `embed` gives it, where its scores are there.

        Args:
            embedding: (d,) unit embedding.
            scores: (M,) its inner products with all images, with the scale that the encoder gave.
            frozen: (M, d) embeddings of the images, of any norm; few rows are read.
            image_va: (M, 2) aligned VA of the images.
        """
        clips = self.music_items([""], embedding[None])
        if self.expectation is None:
            images = self.image_items([""], frozen[:1], image_va[:1])
        else:
            rows, semantic = self.expectation.formula.semantic_of(scores)
            unit = frozen[rows] / np.linalg.norm(frozen[rows], axis=1, keepdims=True)
            images = self.image_items([""] * len(rows), unit, image_va[rows])
            teacher = self.expectation.teacher(np.arange(len(rows))[None], semantic[None], "cpu")
            expected = self.expectation.vectors(teacher, clips.va, images.features, images.va)
            clips = clips._replace(expected=expected)
        p, _ = self._embed(clips, images)
        new: Floats = p[0]
        return new

    def embed_images(self, images: Floats, image_va: NDArray[np.float64] | None = None) -> Floats:
        """New embeddings (n, e) of images that are not known; arguments as `embed` takes them."""
        nobody = self.music_items([], images[:0])
        return self._embed(nobody, self.image_items([""] * len(images), images, image_va))[1]

    def pair_scores(
        self, clips: Items, images: Items, device: str = "cpu"
    ) -> Callable[[Ids, Ids], NDArray[np.float32]]:
        """The whole network's scores of given pairs, for networks that are more than an inner product.

        Returns:
            A function of clip rows (n,) and image rows (n, k), to scores (n, k).

        Raises:
            AdapterError: the network's score is its inner product; there is nothing to re-rank by.
        """
        network = self.module(device)
        if not isinstance(network, PairScorer):
            raise AdapterError(f"network {self.network} scores by its new embeddings alone: rank by those")

        def scores(rows: Ids, candidates: Ids) -> NDArray[np.float32]:
            taken = clips.take(torch.from_numpy(rows).to(device))
            with torch.inference_mode():
                logits = network.pair_logits(taken, images, torch.from_numpy(candidates).to(device))
            return np.asarray(logits.cpu().numpy())

        return scores

    def music_items(self, clip_ids: Sequence[str], music: Floats, device: str = "cpu") -> Items:
        """Clips as the network sees them; arguments as `embed` takes them."""
        self._check_dimension("music", music)
        features = self.projection.music(music)
        numbers = _numbers(clip_ids, self.clip_ids)
        known = numbers > 0
        va = self.music_reader.read(features)
        va[known] = self.known_va[numbers[known] - 1]
        history = np.zeros((len(numbers), self.known_pairs.shape[1]), dtype=np.int64)
        history[known] = self.known_pairs[numbers[known] - 1]
        return _items(features, numbers, va, history, device)

    def image_items(
        self,
        image_ids: Sequence[str],
        images: Floats,
        image_va: NDArray[np.float64] | None = None,
        device: str = "cpu",
    ) -> Items:
        """Images as the network sees them; arguments as `embed` takes them."""
        self._check_dimension("image", images)
        features = self.projection.images(images)
        va = self.image_reader.read(features) if image_va is None else image_va.astype(np.float32)
        nothing = np.zeros((len(images), 0), dtype=np.int64)
        return _items(features, _numbers(image_ids, self.image_ids), va, nothing, device)

    def _check_dimension(self, kind: str, embeddings: Floats) -> None:
        d = len(self.projection.music_mean)
        if embeddings.shape[1] != d:
            raise AdapterError(
                f"the adapter {self.network} was trained on embeddings of {d} numbers, these {kind} "
                f"embeddings have {embeddings.shape[1]}: train it again on this encoder"
            )

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


def resolve_device(device: str) -> str:
    """`auto` is CUDA, then MPS, then the CPU; anything else stays as it is."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _optimizers(module: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """AdamW, and where a network reads few rows of its tables at a time, the same by rows for those."""
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
        raise NonFiniteLossError(f"{where}: the loss is {value}; lower the learning rate or look at the data")
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
        expectation = Expectation.of(data.formula, errors, images)
        # The test part is not looked at.
        seen = np.flatnonzero(np.asarray(data.clip_parts, dtype=np.str_) != TEST)
        of_seen = expectation.teacher(*data.formula.semantic(data.music[seen], data.images), device)
        rows = torch.from_numpy(seen).to(device)
        expected = torch.zeros_like(clips.features)
        expected[rows] = expectation.vectors(of_seen, clips.va[rows], pictures.features, pictures.va)
        clips = clips._replace(expected=expected)
        place = np.zeros(len(music), dtype=np.int64)
        place[seen] = np.arange(len(seen))

        def teacher(chosen: Ids, generator: torch.Generator) -> Teacher:
            return of_seen.take(torch.from_numpy(place[chosen]).to(device))._replace(generator=generator)

    return _Inputs(clips, pictures, music_reader, image_reader, expectation, teacher)


def _known(
    projection: Projection, settings: TrainingSettings, clip_ids: list[str], image_ids: list[str]
) -> Known:
    features = projection.basis.shape[1]
    return Known(features, min(features, settings.learned), len(clip_ids), len(image_ids))


def _items(features: Floats, numbers: Ids, va: Floats, history: Ids, device: str) -> Items:
    arrays = (features, numbers, va, history, np.zeros((len(features), 0), dtype=np.float32))
    return Items(*(torch.from_numpy(array).to(device) for array in arrays))


def _numbers(ids: Sequence[str], known: Sequence[str]) -> Ids:
    """1 + the place of each id among those known; 0 for the others."""
    number = {name: place for place, name in enumerate(known, start=1)}
    return np.asarray([number.get(name, 0) for name in ids], dtype=np.int64)


def _histories(data: PairData) -> Ids:
    """(N, m) ids of each clip's training images, best T first, filled with 0."""
    chosen = np.flatnonzero(data.pair_parts == TRAIN)
    chosen = chosen[np.lexsort((-data.fused_scores[chosen], data.pair_clips[chosen]))]
    clips = data.pair_clips[chosen]
    counts = np.bincount(clips, minlength=len(data.music))
    place = np.arange(len(chosen)) - np.repeat(np.cumsum(counts) - counts, counts)
    histories = np.zeros((len(data.music), int(counts.max())), dtype=np.int64)
    histories[clips, place] = data.pair_images[chosen] + 1
    return histories


def _validation(data: PairData) -> Callable[[nn.Module, Items, Items], dict[str, float | None]]:
    """A function that measures a network on the validation part, without the pairs it was trained on."""
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
