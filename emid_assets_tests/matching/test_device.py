"""The accelerator's path: on the CPU through the same code, and on a CUDA device where there is one."""

import numpy as np
import pytest
import torch

from emid_assets.matching.device import TilePrecision, shard_state_on_device
from emid_assets.matching.row_state import log_sum_exp
from emid_assets.matching.top_k_softmax import MatchingError, merge_shards, settle_shards, shard_state
from emid_assets_tests.matching.brute_force import (
    brute_force_scores,
    brute_force_top_k,
    rounded,
    unit_rows,
)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])]


@pytest.mark.processor
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.0), ("tf32", 2e-3), ("bf16", 2e-2)])
def test_low_precision_products_settle_to_the_ids_of_float64(
    device: str, precision: TilePrecision, tolerance: float
) -> None:
    rng = np.random.default_rng(0)
    X, Y = unit_rows(rng, 90, 256, 20.0), unit_rows(rng, 6000, 256)
    Y[5000:5010] = Y[17]
    shard = shard_state_on_device(
        X, Y, 50, device=device, precision=precision, tile_rows=40, tile_columns=4096
    )
    state = settle_shards(shard, X, Y, 50)
    ids, denominators = brute_force_top_k(brute_force_scores(X, Y), 50)
    np.testing.assert_array_equal(state.ids, ids)
    np.testing.assert_allclose(log_sum_exp(state), rounded(denominators), rtol=0, atol=tolerance)


@pytest.mark.processor
@pytest.mark.parametrize("device", DEVICES)
def test_a_shard_from_the_device_merges_with_one_from_the_processor(device: str) -> None:
    rng = np.random.default_rng(1)
    X, Y = unit_rows(rng, 10, 32, 20.0), unit_rows(rng, 500, 32)
    ids, _ = brute_force_top_k(brute_force_scores(X, Y), 9)
    ours = shard_state_on_device(X, Y[:200], 9, device=device)
    width = ours.state.width
    others = shard_state(X, Y[200:], width - 16, first_column=200)
    np.testing.assert_array_equal(settle_shards(merge_shards([others, ours]), X, Y, 9).ids, ids)


def test_the_device_path_checks_its_input_like_the_processors() -> None:
    X = np.ones((3, 4), dtype=np.float32)
    X[2, 1] = np.nan
    with pytest.raises(MatchingError, match="row 2 of X holds a number that is not finite"):
        shard_state_on_device(X, X, 1, device="cpu")
    before = torch.get_float32_matmul_precision()
    with pytest.raises(MatchingError, match="row 2 of Y"):
        shard_state_on_device(X[:2], X, 1, device="cpu")
    assert torch.get_float32_matmul_precision() == before
