"""What sets each network apart, against the formulas of its paper."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from emid_assets.adapters import AdapterError
from emid_assets.adapters.networks.bmf import BMF, BMFConfig
from emid_assets.adapters.networks.distilled import Distilled, DistilledConfig, waves
from emid_assets.adapters.networks.image_plane import ImagePlane
from emid_assets.adapters.networks.interface import Batch, Items, Known, Teacher
from emid_assets.adapters.networks.ncf import NCF, NCFConfig
from emid_assets.adapters.networks.svdpp import SVDPP, SVDPPConfig
from emid_assets.adapters.pair_data import pair_data
from emid_assets.adapters.training import train
from emid_assets.media.lake_tables import LakeTables
from emid_assets.ranking.metrics import evaluate_ranking, inner_product_scores
from emid_assets_tests.small_lake import FORMULA, SETTINGS
from emid_assets_tests.synthetic_emid import Recipe, generate
from emid_assets_tests.synthetic_emid import pair_data as generated_pairs

CLIPS, IMAGES, FEATURES = 7, 11, 6
KNOWN = Known(FEATURES, 4, CLIPS, IMAGES)


def items(n: int, seed: int, history: torch.Tensor | None = None) -> Items:
    generator = torch.Generator().manual_seed(seed)
    return Items(
        torch.randn(n, FEATURES, generator=generator),
        torch.arange(1, n + 1),
        torch.randn(n, 2, generator=generator),
        torch.zeros(n, 0, dtype=torch.int64) if history is None else history,
        torch.zeros(n, 0),
    )


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """Every weight moved, so that nothing is zero by its start."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
        for module in network.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight[0] = 0.0
    return network.eval()


def batch(positives: list[list[int]]) -> Batch:
    rows = torch.tensor(positives)
    clips = items(CLIPS, 0, rows + 1)
    return Batch(clips, items(IMAGES, 1), rows, None, torch.Generator().manual_seed(0))


def test_bmf_is_mu_plus_both_biases_plus_the_product_of_the_factors() -> None:
    network = shaken(BMF(BMFConfig(hidden=5), KNOWN))
    music, images = items(CLIPS, 0), items(IMAGES, 1)
    p, q = network.embeddings(music, images)
    (p_u, b_u), (q_i, b_i) = network.music_tower(music), network.image_tower(images)
    learned = p_u @ q_i.T + music.features[:, 4:] @ images.features[:, 4:].T
    factor = network.config.scale * network.log_rescale.exp()
    mu = network.mu - math.log(network.config.negative_weight)
    expected = mu + b_u[:, None] + b_i[None] + factor * learned
    torch.testing.assert_close(p @ q.T, expected)


def test_svdpp_adds_the_clips_images_divided_by_the_root_of_their_number() -> None:
    network = shaken(SVDPP(SVDPPConfig(hidden=5), KNOWN))
    images = items(IMAGES, 1)
    history = torch.tensor([[3, 5, 0], [2, 0, 0], [0, 0, 0]] + [[1, 2, 3]] * 4)
    p, _ = network.embeddings(items(CLIPS, 0, history), images)
    alone, _ = network.embeddings(items(CLIPS, 0, torch.zeros_like(history)), images)
    y = network.history_content(images.features[:, :4]) + network.history_factors(images.ids)
    torch.testing.assert_close((p - alone)[0, :4], (y[2] + y[4]) / math.sqrt(2))
    torch.testing.assert_close((p - alone)[1, :4], y[1])
    torch.testing.assert_close(p[2], alone[2])


def test_svdpp_changes_no_more_leading_features_than_its_own_number() -> None:
    network = shaken(SVDPP(SVDPPConfig(hidden=5, learned=2), KNOWN))
    music, images = items(CLIPS, 0, torch.tensor([[1, 2]] * CLIPS)), items(IMAGES, 1)
    p, q = network.embeddings(music, images)
    scale = network.config.scale * network.log_rescale.exp()
    torch.testing.assert_close(p[:, 2:FEATURES], music.features[:, 2:] * scale)
    torch.testing.assert_close(q[:, 2:FEATURES], images.features[:, 2:])
    assert not torch.isclose(p[:, :2], music.features[:, :2] * scale).any()


def test_svdpp_leaves_the_learnt_image_out_of_its_own_clips_history() -> None:
    network = shaken(SVDPP(SVDPPConfig(hidden=5, history_dropout=0.0, negatives=4), KNOWN))
    single = batch([[clip] for clip in range(CLIPS)])
    before = network.loss(single)
    pair = batch([[clip, clip + 1] for clip in range(CLIPS)])
    pair_before = network.loss(pair)
    with torch.no_grad():
        network.history_factors.weight.add_(1.0)
    # A clip with one image has no history while that image is learnt; with two it has the other.
    torch.testing.assert_close(
        network.loss(replace(single, generator=torch.Generator().manual_seed(0))), before
    )
    again = network.loss(replace(pair, generator=torch.Generator().manual_seed(0)))
    assert not torch.isclose(again, pair_before)


def test_ncf_is_its_gmf_part_plus_the_mlp_over_both_factors() -> None:
    network = shaken(NCF(NCFConfig(hidden=5, mlp=8), KNOWN))
    music, images = items(CLIPS, 0), items(IMAGES, 1)
    candidates = torch.tensor([[0, 4, 10]] * CLIPS)
    p, q = network.embeddings(music, images)
    (p_u, _), (q_i, _) = network.music_tower(music), network.image_tower(images)
    joined = (
        torch.cat([p_u[:, None].expand(-1, 3, -1), q_i[candidates]], dim=2)
        @ torch.cat([network.music_layer.weight, network.image_layer.weight], dim=1).T
        + network.music_layer.bias
    )
    mlp = network.mlp_logit(network.mlp(torch.relu(joined))).squeeze(-1)
    expected = (p @ q.T).gather(1, candidates) + mlp
    torch.testing.assert_close(network.pair_logits(music, images, candidates), expected)


def test_ncf_learns_the_gmf_part_from_all_sampled_images_and_the_whole_from_few() -> None:
    config = NCFConfig(hidden=5, mlp=8, negatives=20, mlp_negatives=6, negative_weight=3.0, gmf_weight=0.5)
    network = shaken(NCF(config, KNOWN))
    pairs = batch([[clip, clip + 1] for clip in range(CLIPS)])
    sampled = pairs.sample(config.negatives)
    rows = torch.cat([pairs.positives, (sampled.images.ids[sampled.negatives] - 1).expand(CLIPS, -1)], dim=1)
    p, q = network.embeddings(pairs.clips, pairs.images)
    own = (rows[:, :2, None] == rows[:, None, 2:]).any(1)

    def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
        right, wrong = torch.sigmoid(logits[:, :2]).log(), torch.sigmoid(-logits[:, 2:]).log()
        others = ~own[:, : wrong.shape[1]]
        return -(right.mean() + 3.0 * ((wrong * others).sum(1) / others.sum(1)).mean())

    whole = network.pair_logits(pairs.clips, pairs.images, rows)[:, :8]
    gmf = (p @ q.T).gather(1, rows)
    again = replace(pairs, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.loss(again), cross_entropy(whole) + 0.5 * cross_entropy(gmf))


def test_a_sampled_image_that_is_the_clips_own_is_no_negative() -> None:
    positives = [[clip, clip + 1] for clip in range(CLIPS)]
    sampled = batch(positives).sample(50)
    drawn = sampled.images.ids[sampled.negatives] - 1
    for clip, own in enumerate(sampled.own):
        assert own.tolist() == [int(image) in positives[clip] for image in drawn]
    assert len(sampled.images.ids.unique()) == len(sampled.images.ids)


def test_waves_turn_the_kernel_of_an_angle_into_an_inner_product() -> None:
    va = torch.tensor([[0.3, 0.4], [-0.2, 0.1], [0.0, 0.0]])
    result = waves(va, 3)
    angle = math.atan2(0.4, 0.3) - math.atan2(0.1, -0.2)
    expected = sum(math.cos(k * angle) for k in (1, 2, 3))
    assert float(result[0, :6] @ result[1, :6]) == pytest.approx(expected, abs=1e-5)
    assert result[0, 6] == pytest.approx(0.5)
    assert not result[2].any()


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_the_teacher_without_errors_names_the_pairs_of_the_formula(sigma: float | None) -> None:
    rng = np.random.default_rng(0)
    candidates = np.stack([rng.choice(IMAGES, 6, replace=False) for _ in range(CLIPS)])
    candidates[0, 5] = -1
    semantic = rng.random((CLIPS, 6))
    semantic[0, 5] = -np.inf
    u, v = rng.normal(size=(CLIPS, 2)), rng.normal(size=(IMAGES, 2))
    va = torch.tensor(v, dtype=torch.float32)
    widths = torch.full((IMAGES, 2), sigma**2) if sigma else va[:0]
    teacher = Teacher(
        candidates=torch.tensor(candidates),
        semantic=torch.tensor(0.6 * semantic, dtype=torch.float32),
        plane=ImagePlane(va, widths, sigma or 0.0, in_cells=False),
        elsewhere=None,
        ties=torch.zeros((CLIPS, 0), dtype=torch.int32),
        emotional_weight=0.4,
        pairs=2,
        errors=torch.zeros(1, 2),
        generator=torch.Generator().manual_seed(0),
    )
    target = teacher.target(torch.tensor(u, dtype=torch.float32), draws=3)
    for clip in range(CLIPS):
        points = v[candidates[clip]]
        if sigma is None:
            cosine = points @ u[clip] / np.linalg.norm(points, axis=1) / np.linalg.norm(u[clip])
            E = (1 + cosine) / 2
        else:
            E = np.exp(-((points - u[clip]) ** 2).sum(axis=1) / (2 * sigma**2))
        best = np.argsort(-(0.6 * semantic[clip] + 0.4 * E))[:2]
        assert target.images[clip].tolist() == 3 * candidates[clip][best].tolist()
        assert target.share[clip].tolist() == pytest.approx([0.5] * 6)


def test_the_distilled_network_learns_without_a_teacher_and_with_one(lake: LakeTables) -> None:
    alone = pair_data(lake, seed=0)
    taught = pair_data(lake, seed=0, formula=FORMULA)
    for data in (alone, taught):
        losses = [entry["loss"] for entry in train("distilled", data, replace(SETTINGS, epochs=12)).history]
        assert losses[-1] < 0.9 * losses[0]
    assert alone.formula is None
    assert taught.formula is not None


def test_the_distilled_network_beats_the_frozen_space_and_bmf_on_unseen_clips() -> None:
    data = generated_pairs(generate(0, Recipe(shrink=12, images=400, dimension=96, candidates=60)), "cold", 0)
    relevance = data.relevance("test")

    def ndcg(p: np.ndarray, q: np.ndarray) -> float:
        scores = inner_product_scores(p, q)
        return evaluate_ranking(scores, relevance.queries(), relevance).metrics["ndcg_at_10"]

    results = {"frozen": ndcg(data.music, data.images)}
    for network in ("bmf", "distilled"):
        adapter = train(network, data, replace(SETTINGS, dimension=96, epochs=15, batch_clips=128))
        results[network] = ndcg(
            *adapter.embed(data.clip_ids, data.music, data.image_ids, data.images, data.image_va)
        )
    assert results["distilled"] > 1.2 * max(results["frozen"], results["bmf"]), results


def test_the_distilled_score_of_an_unseen_clip_uses_no_history() -> None:
    network = shaken(Distilled(DistilledConfig(hidden=5, harmonics=2), KNOWN))
    images = items(IMAGES, 1)
    p, _ = network.embeddings(items(CLIPS, 0, torch.zeros(CLIPS, 3, dtype=torch.int64)), images)
    with torch.no_grad():
        network.history_factors.weight[1:] += 1.0
    again, _ = network.embeddings(items(CLIPS, 0, torch.zeros(CLIPS, 3, dtype=torch.int64)), images)
    torch.testing.assert_close(p, again)


def test_only_networks_that_are_more_than_an_inner_product_can_re_rank(lake: LakeTables) -> None:
    data = pair_data(lake, seed=0)
    bmf = train("bmf", data, replace(SETTINGS, epochs=1))
    with pytest.raises(AdapterError, match="network bmf scores by its new embeddings alone"):
        bmf.pair_scores(bmf.music_items([], data.music[:0]), bmf.image_items([], data.images[:0]))
