"""The frame for networks, with every network in it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from emid_assets.adapters import NETWORKS, AdapterError
from emid_assets.adapters.networks.content_tower import fit_projection
from emid_assets.adapters.networks.interface import Known
from emid_assets.adapters.pair_data import PairData, pair_data
from emid_assets.adapters.trained_adapter import TrainedAdapter, TrainingSettings, build_network
from emid_assets.adapters.training import NonFiniteLossError, train
from emid_assets.encoders.interface import EncoderUnavailableError
from emid_assets.media.lake_tables import LakeTables
from emid_assets.ranking.metrics import evaluate_ranking, inner_product_scores
from emid_assets_tests.small_lake import FORMULA, SETTINGS, make_lake


@pytest.fixture(scope="module")
def data(lake: LakeTables) -> PairData:
    return pair_data(lake, seed=0, formula=FORMULA)


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def adapter(request: pytest.FixtureRequest, data: PairData) -> TrainedAdapter:
    return train(request.param, data, SETTINGS)


def test_a_device_that_is_not_there_is_refused_before_anything_is_computed(data: PairData) -> None:
    with pytest.raises(EncoderUnavailableError, match=r"device 'cuda:99' was asked for, but torch .* sees"):
        train("bmf", data, replace(SETTINGS, device="cuda:99"))


def embed(adapter: TrainedAdapter, data: PairData) -> tuple[np.ndarray, np.ndarray]:
    return adapter.embed(data.clip_ids, data.music, data.image_ids, data.images)


def test_the_projection_keeps_the_directions_that_carry_most_and_centres_each_modality(
    data: PairData,
) -> None:
    projection = fit_projection(data.music, data.images, 5)
    music, images = projection.music(data.music), projection.images(data.images)
    np.testing.assert_allclose(music.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(images.mean(axis=0), 0, atol=1e-6)
    centred = np.concatenate(
        [
            (data.music - data.music.mean(0)) / np.sqrt(len(data.music)),
            (data.images - data.images.mean(0)) / np.sqrt(len(data.images)),
        ]
    )
    singular = np.linalg.svd(centred.astype(np.float64), compute_uv=False)
    kept = (music**2).sum() / len(music) + (images**2).sum() / len(images)
    assert kept == pytest.approx((singular[:5] ** 2).sum(), rel=1e-5)


def test_the_projection_has_no_direction_that_no_item_spans() -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(3, 50)).astype(np.float32), rng.normal(size=(4, 50)).astype(np.float32)
    assert fit_projection(X, Y, 20).basis.shape == (50, 5)


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_before_training_the_scores_rank_as_the_centred_frozen_space(network: str, data: PairData) -> None:
    settings = replace(SETTINGS, learning_rate=0.0, weight_decay=0.0, epochs=1, dimension=24)
    # The distilled network starts with feeling and expectation: without them it is the frozen space too.
    config = {"feeling": 0.0, "expectation": 0.0} if network == "distilled" else {}
    p, q = embed(train(network, data, settings, config), data)
    training = [part == "train" for part in data.clip_parts]
    X = (data.music - data.music[training].mean(0)).astype(np.float64)
    Y = (data.images - data.images.mean(0)).astype(np.float64)
    frozen, ours = X @ Y.T, p.astype(np.float64) @ q.T
    slope = (frozen * ours).sum() / (frozen**2).sum()
    constant = (ours - slope * frozen).mean()
    np.testing.assert_allclose(ours, slope * frozen + constant, atol=1e-3 * slope)
    assert slope > 0


@pytest.mark.processor
@pytest.mark.parametrize("network", ["bmf", "distilled"])
def test_one_epoch_twice_gives_the_same_bits(data: PairData, network: str) -> None:
    once, again = (train(network, data, replace(SETTINGS, epochs=1)) for _ in range(2))
    assert once.history == again.history
    for name, weights in once.state.items():
        assert torch.equal(weights, again.state[name]), name


def test_training_twice_gives_the_same_bits(adapter: TrainedAdapter, data: PairData, tmp_path: Path) -> None:
    again = train(adapter.network, data, SETTINGS)
    assert adapter.save(tmp_path / "a") == again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    other = train(adapter.network, data, replace(SETTINGS, seed=1))
    assert other.history != adapter.history


def test_training_leaves_the_callers_random_state_alone(data: PairData) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train("bmf", data, replace(SETTINGS, epochs=1))
    assert torch.equal(before, torch.get_rng_state())


def test_training_learns_the_pairs_it_was_given(lake: LakeTables) -> None:
    data = pair_data(lake, seed=0)
    adapter = train("bmf", data, replace(SETTINGS, epochs=40))
    losses = [entry["loss"] for entry in adapter.history]
    assert losses[-1] < 0.7 * losses[0]


def test_weights_survive_the_file_and_the_file_holds_no_pickle(
    adapter: TrainedAdapter, data: PairData, tmp_path: Path
) -> None:
    path = tmp_path / "weights" / f"{adapter.network}.safetensors"
    adapter.save(path)
    loaded = TrainedAdapter.load(path)
    assert loaded.history == adapter.history
    assert loaded.settings == adapter.settings
    for ours, theirs in zip(embed(adapter, data), embed(loaded, data), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["adapter"])["config"] == adapter.config
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_no_adapter_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(AdapterError, match=r"weights\.safetensors is not an adapter"):
        TrainedAdapter.load(path)


def test_weights_of_another_version_are_refused_with_what_to_do(
    adapter: TrainedAdapter, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    first = next(iter(adapter.state))
    replace(adapter, state={name: t for name, t in adapter.state.items() if name != first}).save(path)
    with pytest.raises(
        AdapterError, match=r"weights\.safetensors was written by another version .*: train it again"
    ):
        TrainedAdapter.load(path)


def test_the_best_validation_epoch_is_kept_and_the_earliest_of_equals(adapter: TrainedAdapter) -> None:
    ndcg = [entry["ndcg_at_10"] for entry in adapter.history]
    assert [entry["epoch"] for entry in adapter.history] == list(range(1, SETTINGS.epochs + 1))
    assert adapter.best_epoch == 1 + ndcg.index(max(ndcg))


def test_the_kept_weights_are_those_of_the_best_epoch(data: PairData) -> None:
    adapter = train("bmf", data, replace(SETTINGS, epochs=20, learning_rate=0.03, weight_decay=0.0))
    assert adapter.best_epoch < 20
    p, q = embed(adapter, data)
    relevance = data.relevance("validation")
    measured = evaluate_ranking(inner_product_scores(p, q), relevance.queries(), relevance).metrics
    assert measured["ndcg_at_10"] == adapter.history[adapter.best_epoch - 1]["ndcg_at_10"]
    assert measured["ndcg_at_10"] != adapter.history[-1]["ndcg_at_10"]


def test_a_warm_start_begins_with_the_weights_that_fit(data: PairData) -> None:
    scratch = train("bmf", data, replace(SETTINGS, epochs=3))
    still = replace(SETTINGS, epochs=1, learning_rate=1e-12, weight_decay=0.0)
    warm = train("bmf", data, still, weights=scratch.state)
    for name, weights in scratch.state.items():
        torch.testing.assert_close(warm.state[name], weights, atol=1e-6, rtol=0)
    cold = train("bmf", data, still)
    other = {name: torch.ones(7) for name in scratch.state} | {"of_no_layer": torch.ones(1)}
    ignored = train("bmf", data, still, weights=other)
    assert all(torch.equal(ignored.state[name], weights) for name, weights in cold.state.items())


def test_each_epoch_is_reported_as_it_ends(data: PairData) -> None:
    seen: list[object] = []
    adapter = train("bmf", data, SETTINGS, on_epoch=lambda entry: seen.append(dict(entry)))
    assert seen == adapter.history


def test_unseen_items_get_embeddings_from_their_content_alone(
    adapter: TrainedAdapter, data: PairData
) -> None:
    p, q = adapter.embed(["unheard"] * 2, data.music[:2], ["unseen"] * 3, data.images[:3])
    assert p.shape == (2, adapter.width)
    assert q.shape == (3, adapter.width)
    assert np.isfinite(p).all()
    assert np.isfinite(q).all()
    assert not np.array_equal(p[0], p[1])


def test_one_source_clip_trains_on_all_and_keeps_the_last_epoch(adapter: TrainedAdapter) -> None:
    data = pair_data(make_lake(sources=1), seed=0)
    assert set(data.clip_parts) == {"train"}
    trained = train(adapter.network, data, SETTINGS)
    assert trained.best_epoch == SETTINGS.epochs
    assert all(entry["ndcg_at_10"] is None and entry["loss"] is not None for entry in trained.history)
    assert trained.manifest_frame("weights", "hash")["history"].list.len()[0] == SETTINGS.epochs


def test_a_loss_that_is_not_finite_names_network_epoch_and_batch(data: PairData) -> None:
    fused = np.full_like(data.fused_scores, 0.5)
    settings = replace(SETTINGS, learning_rate=1e30, gradient_norm=1e30, epochs=20)
    with pytest.raises(NonFiniteLossError, match=r"network bmf, epoch \d+, batch \d+: the "):
        train("bmf", replace(data, fused_scores=fused), settings)


def test_gradients_are_scaled_down_to_the_norm(data: PairData, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def measured(self: torch.optim.AdamW, *args: object) -> None:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(nn.utils.get_total_norm(gradients)))
        step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", measured)
    train("bmf", data, replace(SETTINGS, gradient_norm=0.01, epochs=1))
    assert norms
    assert max(norms) <= 0.01 * 1.001


def test_an_embedding_that_is_not_finite_names_its_item(data: PairData) -> None:
    music = data.music.copy()
    music[7, 3] = np.nan
    with pytest.raises(AdapterError, match=data.clip_ids[7]):
        replace(data, music=music)


def test_unknown_networks_and_hyperparameters_are_named_with_what_is_allowed(data: PairData) -> None:
    with pytest.raises(AdapterError, match="unknown network 'gpt': use one of"):
        train("gpt", data, SETTINGS)
    with pytest.raises(AdapterError, match="its hyperparameters are hidden"):
        build_network("bmf", {"depth": 3}, Known(4, 4, 5, 6))


def test_another_encoders_embeddings_are_refused(adapter: TrainedAdapter) -> None:
    with pytest.raises(
        AdapterError, match="trained on embeddings of 24 dimensions, these music embeddings have 25"
    ):
        adapter.embed(["a"], np.zeros((1, 25), np.float32), ["b"], np.zeros((1, 25), np.float32))


def test_defaults_of_the_frame_are_the_papers_fifty_epochs() -> None:
    assert TrainingSettings().epochs == 50


def test_an_adapter_without_its_known_items_is_small_and_treats_all_items_as_unknown(
    adapter: TrainedAdapter, data: PairData, tmp_path: Path
) -> None:
    stripped = adapter.without_known_items()
    stripped.save(tmp_path / "stripped")
    stripped = TrainedAdapter.load(tmp_path / "stripped")
    assert stripped.parameters < adapter.parameters
    assert stripped.clip_ids == stripped.image_ids == []
    unknown = [""] * len(data.music), data.music, [""] * len(data.images), data.images
    for va in (None, data.image_va):
        p, q = adapter.embed(*unknown, va)
        np.testing.assert_array_equal(stripped.embed(*unknown, va)[0], p)
        np.testing.assert_array_equal(stripped.embed_images(data.images, va), q)
