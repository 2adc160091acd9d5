"""A trained network with everything needed to apply it, and its weights file.

Belongs here: saving, loading and applying. The training loop is in `training`; what a network computes is in
`networks/`.
"""

import dataclasses
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from emid_assets.adapters import NETWORKS, AdapterError
from emid_assets.adapters.expected_images import Expectation
from emid_assets.adapters.formula import TaughtFormula
from emid_assets.adapters.networks.content_tower import Projection
from emid_assets.adapters.networks.interface import Items, Known, Network, PairScorer
from emid_assets.adapters.va_ridge import VaReader
from emid_assets.settings import Settings
from emid_assets.store.files import make_folder, sha256_of, write_in_place
from emid_assets.store.schemas import EPOCH_TYPE, TRAINED_ADAPTER

Epoch = dict[str, int | float | None]
Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

EXTRA_CHANNELS = 20
"""Columns that networks may add to the factors: biases, their ones, an emotion channel.

Embeddings of all networks are padded with zeros to one width, `dimension + EXTRA_CHANNELS`, so
that one table holds them; zeros change no inner product.
"""


@dataclass(frozen=True)
class TrainingSettings:
    """Training settings that all networks share.

    Attributes:
        dimension: features of the projected space (PCA) that are kept.
        learned: leading features that a network may change; the rest stays frozen.
        epochs: passes over the training clips.
        learning_rate: Adam's initial learning rate, with cosine decay to zero over the epochs; None for
            the network's default.
        weight_decay: AdamW's; None for the network's default.
        batch_clips: clips in a batch; None for the network's default.
        gradient_norm: gradients are clipped to this norm.
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

    @classmethod
    def of(cls, settings: Settings) -> "TrainingSettings":
        """Those of a build's settings."""
        return cls(
            dimension=settings.adapter_dimension,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate or None,
            seed=settings.seed,
            device=settings.device,
        )


@dataclass(frozen=True)
class TrainedAdapter:
    """A trained network with everything needed to apply it.

    Attributes:
        network: name in NETWORKS.
        config: the network's hyperparameters.
        settings: how it was trained.
        projection: from the encoder's space to features.
        state: the network's weights, on the CPU.
        music_reader, image_reader: predict VA from features, for items without ratings.
        known_va: (N, 2) float32, VA of the known clips, predicted by a ridge that never saw their source.
        expectation: the images that the formula expects for a clip; None if the network does not use it.
        known_pairs: (N, m) int64 ids of the images that each clip was paired with in training, padded
            with 0: its history.
        clip_ids, image_ids: the items known in training; only they have free factors.
        clip_parts: (N,) part of each clip.
        data_version: digest of the training data.
        best_epoch: the epoch that these weights are from, counted from 1.
        history: one entry per epoch, with the fields of EPOCH_TYPE; metrics are None without validation.
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
        """Number of trained parameters."""
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
        """The network with these weights, for inference."""
        known = _known(self.projection, self.settings, self.clip_ids, self.image_ids)
        network = build_network(self.network, self.config, known)
        network.load_state_dict(self.state)
        return network.to(device).eval()

    def without_known_items(self) -> "TrainedAdapter":
        """The same adapter without the data of known items: small, with the same results for unknown ones."""
        nobody = _known(self.projection, self.settings, [], [])
        shapes = build_network(self.network, self.config, nobody).state_dict()
        return dataclasses.replace(
            self,
            # The first row of a table of free factors is for unknown items.
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

        The file is written under a temporary name and renamed, so no reader sees a partial file. Equal
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
            "formula": None if self.expectation is None else self.expectation.formula.to_json(),
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
                "expectation.clip_variance": self.expectation.clip_variance,
            }
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        tensors |= {f"network.{name}": tensor.contiguous() for name, tensor in self.state.items()}
        make_folder(path.parent)
        write_in_place(path, save(tensors, metadata={"adapter": json.dumps(description, sort_keys=True)}))
        return sha256_of(path)

    @classmethod
    def load(cls, path: Path) -> "TrainedAdapter":
        """Read a file written by `save`; runs no code from the file.

        Raises:
            AdapterError: the file is not an adapter, or its network does not exist.
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
                else Expectation(TaughtFormula.of_json(formula), **arrays("expectation")),
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

        A network that uses the images that the formula expects for a clip searches them among these.

        Args:
            clip_ids: ids of the rows of `music`; those known in training get their free factors.
            music: (N, d) unit embeddings of the encoder that the adapter was trained on.
            image_ids: ids of the rows of `images`.
            images: (M, d) unit embeddings.
            image_va: (M, 2) aligned VA of the images, or (M, 4) with their standard deviations; predicted
                from the embeddings if None.
            device: where to compute.

        Raises:
            AdapterError: the encoder's dimension differs.
        """
        clips = self.music_items(clip_ids, music, device)
        pictures = self.image_items(image_ids, images, image_va, device)
        if self.expectation is not None:
            plane = self.expectation.plane(pictures.va, None if image_va is None else image_va[:, 2:])
            teacher = self.expectation.teacher_of(music, images, plane)
            chosen = self.expectation.expected(teacher, clips.va)
            clips = clips._replace(expected=self.expectation.vectors(chosen, pictures.features))
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
        """New embedding (e,) of an unknown clip, as by `embed`, from scores that are already computed.

        Args:
            embedding: (d,) unit embedding.
            scores: (M,) its inner products with all images, with the encoder's scale.
            frozen: (M, d) embeddings of the images, of any norm; few rows are read.
            image_va: (M, 2) aligned VA of the images, or (M, 4) with their standard deviations.
        """
        clips = self.music_items([""], embedding[None])
        if self.expectation is None:
            images = self.image_items([""], frozen[:1], image_va[:1])
        else:
            ranked, semantic = self.expectation.formula.semantic_of(scores)
            va = torch.from_numpy(image_va[:, :2].astype(np.float32))
            plane = self.expectation.plane(va, image_va[:, 2:])
            teacher = self.expectation.teacher(ranked[None], semantic[None], plane)
            chosen = self.expectation.expected(teacher, clips.va)
            distinct, places = torch.unique(chosen, return_inverse=True)
            rows = distinct.numpy()
            unit = frozen[rows] / np.linalg.norm(frozen[rows], axis=1, keepdims=True)
            images = self.image_items([""] * len(rows), unit, image_va[rows])
            clips = clips._replace(expected=self.expectation.vectors(places, images.features))
        p, _ = self._embed(clips, images)
        new: Floats = p[0]
        return new

    def embed_images(self, images: Floats, image_va: NDArray[np.float64] | None = None) -> Floats:
        """New embeddings (n, e) of unknown images; arguments as in `embed`."""
        nobody = self.music_items([], images[:0])
        return self._embed(nobody, self.image_items([""] * len(images), images, image_va))[1]

    def pair_scores(
        self, clips: Items, images: Items, device: str = "cpu"
    ) -> Callable[[Ids, Ids], NDArray[np.float32]]:
        """Scores of given pairs by the whole network, for networks that are more than an inner product.

        Returns:
            A function from clip rows (n,) and image rows (n, k) to scores (n, k).

        Raises:
            AdapterError: the network's score is the inner product; there is nothing to re-rank with.
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
        """Clips as the network sees them; arguments as in `embed`."""
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
        """Images as the network sees them; arguments as in `embed`."""
        self._check_dimension("image", images)
        features = self.projection.images(images)
        va = self.image_reader.read(features) if image_va is None else image_va[:, :2].astype(np.float32)
        nothing = np.zeros((len(images), 0), dtype=np.int64)
        return _items(features, _numbers(image_ids, self.image_ids), va, nothing, device)

    def _check_dimension(self, kind: str, embeddings: Floats) -> None:
        d = len(self.projection.music_mean)
        if embeddings.shape[1] != d:
            raise AdapterError(
                f"the adapter {self.network} was trained on embeddings of {d} dimensions, these {kind} "
                f"embeddings have {embeddings.shape[1]}: train it again on this encoder"
            )

    def manifest_frame(self, weights_file: str, weights_sha256: str) -> pl.DataFrame:
        """The row of `trained_adapter` for weights written by `save`."""
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
    """A network with initial weights; `config` overrides its defaults.

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


def _known(
    projection: Projection, settings: TrainingSettings, clip_ids: list[str], image_ids: list[str]
) -> Known:
    features = projection.basis.shape[1]
    return Known(features, min(features, settings.learned), len(clip_ids), len(image_ids))


def _items(features: Floats, numbers: Ids, va: Floats, history: Ids, device: str) -> Items:
    arrays = (features, numbers, va, history, np.zeros((len(features), 0), dtype=np.float32))
    return Items(*(torch.from_numpy(array).to(device) for array in arrays))


def _numbers(ids: Sequence[str], known: Sequence[str]) -> Ids:
    """1 + the position of each id in `known`; 0 for the others."""
    number = {name: place for place, name in enumerate(known, start=1)}
    return np.asarray([number.get(name, 0) for name in ids], dtype=np.int64)
