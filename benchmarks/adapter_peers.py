"""Peers of `adapter.py`: each trains on the task's pairs and writes its top 10 for the task's clips.

Runs in an interpreter that has the peer, numpy and scipy. It reads and writes npz files, so from the
project it needs only `emid_assets.ranking.metrics` (numpy only).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emid_assets.ranking.metrics import Relevance, inner_product_scores, rank


@dataclass(frozen=True)
class Task:
    """Training pairs of known clips and images."""

    clips: NDArray[np.int64]
    images: NDArray[np.int64]
    n_clips: int
    n_images: int
    image_features: NDArray[np.float32]
    seed: int
    epochs: int

    def matrix(self) -> Any:
        from scipy.sparse import csr_matrix

        ones = np.ones(len(self.clips), dtype=np.float32)
        return csr_matrix((ones, (self.clips, self.images)), shape=(self.n_clips, self.n_images))

    def with_negatives(self, each: int) -> list[tuple[int, int, float]]:
        """Pairs as ratings 1, and `each` sampled images per pair as ratings 0."""
        rng = np.random.default_rng(self.seed)
        drawn = rng.integers(self.n_images, size=(len(self.clips), each))
        positive = [(int(c), int(i), 1.0) for c, i in zip(self.clips, self.images, strict=True)]
        negative = [(int(c), int(i), 0.0) for c, row in zip(self.clips, drawn, strict=True) for i in row]
        return positive + negative


Trained = tuple[str, Any, NDArray[Any] | None, int, float]
"""Name, clip vectors, image vectors (their inner product ranks), epochs, CPU seconds.

If the score is not an inner product: a function from clips (n,) to their top 10 without the pairs trained
on, instead of the clip vectors, and None."""


def _with_bias(p: Any, b_u: Any, q: Any, b_i: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    ones_u, ones_i = np.ones((len(p), 1)), np.ones((len(q), 1))
    left = np.hstack([p, np.reshape(np.asarray(b_u), (-1, 1)), ones_u])
    return left, np.hstack([q, ones_i, np.reshape(np.asarray(b_i), (-1, 1))])


def implicit_peers(task: Task) -> Iterator[Trained]:
    from implicit.als import AlternatingLeastSquares
    from implicit.bpr import BayesianPersonalizedRanking

    matrix, seed = task.matrix(), task.seed
    als = AlternatingLeastSquares(factors=256, iterations=15, random_state=seed, num_threads=1)
    bpr = BayesianPersonalizedRanking(factors=128, iterations=200, random_state=seed, num_threads=1)
    for name, model, epochs in (("implicit-als-256", als, 15), ("implicit-bpr", bpr, 200)):
        started = time.process_time()
        model.fit(matrix, show_progress=False)
        yield name, model.user_factors, model.item_factors, epochs, time.process_time() - started


def cornac_peers(task: Task) -> Iterator[Trained]:
    import cornac

    triples = [(int(c), int(i), 1.0) for c, i in zip(task.clips, task.images, strict=True)]
    dataset = cornac.data.Dataset.from_uir(triples, seed=task.seed)
    ratings = cornac.data.Dataset.from_uir(task.with_negatives(4), seed=task.seed)
    features = cornac.data.ImageModality(
        features=task.image_features, ids=list(range(task.n_images)), normalized=False
    )
    bpr = cornac.models.BPR(
        k=128, max_iter=200, learning_rate=0.05, lambda_reg=0.001, seed=task.seed, num_threads=1
    )
    mf = cornac.models.MF(k=64, max_iter=task.epochs, learning_rate=0.05, seed=task.seed, num_threads=1)
    models = [("cornac-bpr", bpr, dataset), ("cornac-mf", mf, ratings)]
    if find_spec("torch") is None:
        print("skipping cornac's VBPR: it needs torch, which is not installed here", file=sys.stderr)
    else:
        vbpr = cornac.models.VBPR(k=64, k2=64, n_epochs=task.epochs, batch_size=1024, seed=task.seed)
        models.append(("cornac-vbpr", vbpr, dataset))
    for name, model, data in models:
        if name == "cornac-vbpr":
            features.build(id_map=data.iid_map)
            data.add_modalities(item_image=features)
        started = time.process_time()
        model.fit(data)
        seconds = time.process_time() - started
        epochs = 200 if name == "cornac-bpr" else task.epochs
        if name == "cornac-vbpr":
            p = np.hstack([model.gamma_user, model.theta_user])
            q = np.hstack([model.gamma_item, model.theta_item])
            left, right = _with_bias(p, np.zeros(len(p)), q, model.beta_item + model.visual_bias.ravel())
        elif name == "cornac-bpr":
            no_bias = np.zeros(len(model.u_factors))
            left, right = _with_bias(model.u_factors, no_bias, model.i_factors, model.i_biases)
        else:
            left, right = _with_bias(model.u_factors, model.u_biases, model.i_factors, model.i_biases)
        yield name, *_in_place(left, right, data.uid_map, data.iid_map, task), epochs, seconds


def _in_place(
    left: NDArray[Any], right: NDArray[Any], clips: dict[int, int], images: dict[int, int], task: Task
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows in our numbering; items that the peer never saw get a very low bias, so they rank last."""
    p, q = np.zeros((task.n_clips, left.shape[1])), np.zeros((task.n_images, right.shape[1]))
    p[:, -1] = 1.0
    q[:, -1] = -1e6
    p[list(clips)] = left[list(clips.values())]
    q[list(images)] = right[list(images.values())]
    return p, q


def lightfm_peers(task: Task) -> Iterator[Trained]:
    from lightfm import LightFM

    model = LightFM(no_components=128, loss="warp", learning_rate=0.05, random_state=task.seed)
    started = time.process_time()
    model.fit(task.matrix(), epochs=task.epochs, num_threads=1)
    seconds = time.process_time() - started
    b_u, p = model.get_user_representations()
    b_i, q = model.get_item_representations()
    yield "lightfm-warp", *_with_bias(p, b_u, q, b_i), task.epochs, seconds


def surprise_peers(task: Task) -> Iterator[Trained]:
    from surprise import SVD, Dataset, Reader, SVDpp

    ratings = {(clip, image): rating for clip, image, rating in reversed(task.with_negatives(4))}
    rows = [(clip, image, rating, None) for (clip, image), rating in ratings.items()]
    data = Dataset(Reader(rating_scale=(0, 1))).construct_trainset(rows)
    svd = SVD(n_factors=64, n_epochs=task.epochs, lr_all=0.02, random_state=task.seed)
    svdpp = SVDpp(n_factors=32, n_epochs=10, lr_all=0.02, random_state=task.seed, cache_ratings=True)
    for name, model, epochs in (("surprise-svd", svd, task.epochs), ("surprise-svdpp", svdpp, 10)):
        started = time.process_time()
        model.fit(data)
        seconds = time.process_time() - started
        p = np.array(model.pu)
        if name == "surprise-svdpp":
            for user, rated in data.ur.items():
                p[user] += np.sum([model.yj[item] for item, _ in rated], axis=0) / np.sqrt(len(rated))
        left, right = _with_bias(p, model.bu, model.qi, model.bi)
        clips = {data.to_raw_uid(user): user for user in data.all_users()}
        images = {data.to_raw_iid(item): item for item in data.all_items()}
        yield name, *_in_place(left, right, clips, images, task), epochs, seconds


def libreco_peers(task: Task) -> Iterator[Trained]:
    import pandas
    import tensorflow
    from libreco.algorithms import BPR, NCF, SVD, LightGCN, SVDpp
    from libreco.data import DatasetPure

    pairs = pandas.DataFrame({"user": task.clips, "item": task.images, "label": 1})
    data, info = DatasetPure.build_trainset(pairs)
    common = {"task": "ranking", "data_info": info, "embed_size": 64, "n_epochs": task.epochs}
    common |= {"lr": 0.003, "batch_size": 1024, "num_neg": 4, "seed": task.seed}
    kinds: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
        ("libreco-svd", SVD, {"loss_type": "cross_entropy"}),
        ("libreco-svdpp", SVDpp, {"loss_type": "cross_entropy"}),
        ("libreco-bpr", BPR, {"loss_type": "bpr", "use_tf": True}),
        ("libreco-lightgcn", LightGCN, {"loss_type": "bpr", "device": "cpu"}),
        ("libreco-ncf", NCF, {"loss_type": "cross_entropy"}),
    ]
    clips = {clip: info.user2id[clip] for clip in np.unique(task.clips).tolist()}
    images = {image: info.item2id[image] for image in np.unique(task.images).tolist()}
    for name, kind, own in kinds:
        tensorflow.compat.v1.reset_default_graph()  # variable names are unique within a graph
        model = kind(**common, **own)
        started = time.process_time()
        model.fit(data, neg_sampling=True, verbose=0)
        seconds = time.process_time() - started
        if name == "libreco-ncf":
            yield name, partial(_libreco_top, model), None, task.epochs, seconds
            continue
        # The last row is for unknown ids; biases are among the columns.
        p, q = np.asarray(model.user_embeds_np)[:-1], np.asarray(model.item_embeds_np)[:-1]
        left, right = _with_bias(p, np.zeros(len(p)), q, np.zeros(len(q)))
        yield name, *_in_place(left, right, clips, images, task), task.epochs, seconds


def _libreco_top(model: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Its own top 10, since the score is not an inner product.

    Few clips at a time, since it keeps all their pairs with images in memory at once.
    """
    found: dict[int, Any] = {}
    for start in range(0, len(rows), 32):
        found |= model.recommend_user(user=rows[start : start + 32].tolist(), n_rec=10)
    return np.asarray([found[row] for row in rows.tolist()], dtype=np.int64)


def recbole_peers(task: Task) -> Iterator[Trained]:
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "emid"
        place.mkdir()
        lines = [f"{clip}\t{image}" for clip, image in zip(task.clips, task.images, strict=True)]
        for part, rows in (("train", lines), ("valid", lines[:1]), ("test", lines[:1])):
            text = "\n".join(["user_id:token\titem_id:token", *rows])
            (place / f"emid.{part}.inter").write_text(text + "\n")
        options = {
            "data_path": folder,
            "checkpoint_dir": folder,
            "benchmark_filename": ["train", "valid", "test"],
            "load_col": {"inter": ["user_id", "item_id"]},
            "epochs": task.epochs,
            "seed": task.seed,
            "train_batch_size": 2048,
            "learning_rate": 0.003,
            "embedding_size": 64,
            "use_gpu": False,
            "show_progress": False,
            "state": "ERROR",
        }
        for name in ("BPR", "LightGCN"):
            config = Config(model=name, dataset="emid", config_dict=options)
            init_seed(task.seed, reproducibility=True)
            data = create_dataset(config)
            training, _, _ = data_preparation(config, data)
            model = get_model(name)(config, training.dataset)
            trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
            started = time.process_time()
            trainer.fit(training, saved=False, verbose=False)
            seconds = time.process_time() - started
            vectors = (model.user_embedding.weight, model.item_embedding.weight)
            with torch.inference_mode():
                p, q = (part.numpy() for part in (model.forward() if name == "LightGCN" else vectors))
            clips = {row: data.token2id("user_id", str(row)) for row in np.unique(task.clips).tolist()}
            images = {row: data.token2id("item_id", str(row)) for row in np.unique(task.images).tolist()}
            left, right = _with_bias(p, np.zeros(len(p)), q, np.zeros(len(q)))
            in_place = _in_place(left, right, clips, images, task)
            yield f"recbole-{name.lower()}", *in_place, task.epochs, seconds


PEERS: dict[str, Callable[[Task], Iterator[Trained]]] = {
    "implicit": implicit_peers,
    "cornac": cornac_peers,
    "lightfm": lightfm_peers,
    "surprise": surprise_peers,
    "libreco": libreco_peers,
    "recbole": recbole_peers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("task", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=50)
    arguments = parser.parse_args()
    with np.load(arguments.task) as file:
        task = Task(
            file["clips"], file["images"], int(file["n_clips"]), int(file["n_images"]),
            file["image_features"], arguments.seed, arguments.epochs,
        )  # fmt: skip
        rows = file["rows"]
    excluded = Relevance.of_pairs(task.clips, task.images, task.n_images)
    answer: dict[str, Any] = {"names": []}
    for name, left, right, epochs, seconds in PEERS[arguments.peer](task):
        answer["names"].append(name)
        if right is None:
            answer[f"{name}_ranked"] = left(rows)
        else:
            scores = inner_product_scores(left.astype(np.float32), right.astype(np.float32))
            answer[f"{name}_ranked"] = rank(scores, rows, 10, task.n_images, excluded)
        answer[f"{name}_epochs"], answer[f"{name}_seconds"] = epochs, seconds
    np.savez(arguments.answer, **answer)


if __name__ == "__main__":
    main()
