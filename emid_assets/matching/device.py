"""The matching on an accelerator: low-precision products with float32 accumulation, settled on the CPU.

Belongs here: one function that returns a `ShardState` as `top_k_softmax.shard_state` does, so that shards
from devices, processes and machines merge in the same way. It runs on any torch device. On the CPU the
same code rounds the same inputs, so it can be tested without an accelerator.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from emid_assets.matching.product import float32_rounding
from emid_assets.matching.row_state import RowState
from emid_assets.matching.top_k_softmax import Columns, MatchingError, ShardState, checked_norms, column_parts

TilePrecision = Literal["float32", "tf32", "bf16"]

SPARE_SLOTS = 64
"""Slots beyond K: more than on the CPU, since more columns are within rounding error of the K-th."""

GROUP = 32
"""Columns per group: groups compete by their largest score first."""


def shard_state_on_device(
    X: NDArray[np.float32],
    Y: Columns,
    k: int,
    *,
    device: str,
    precision: TilePrecision = "tf32",
    first_column: int = 0,
    tile_rows: int = 8192,
    tile_columns: int = 16384,
) -> ShardState:
    """Rows over a shard of the columns, computed on `device`; `top_k_softmax.settle_shards` makes it exact.

    Args:
        X: (N, d) float32 rows.
        Y: columns, as in `top_k_softmax.top_k_softmax`; one part at a time is copied to the device.
        k: columns that each row keeps in the end.
        device: a torch device, such as `cuda`.
        precision: of the product's inputs; sums are float32. `tf32` keeps the guarantee of exact ids:
            its rounding error is bounded, and every candidate within it is scored again. `bf16` is twice
            as fast on the tensor cores; its bound is statistical (λ = 8, entries of similar size), so a
            row may miss a column that bf16 ranked far too low.
        first_column: position of the shard's first column.
        tile_rows: rows of a block of scores on the device.
        tile_columns: its columns; a block takes 3 · 4 · tile_rows · tile_columns bytes.

    Raises:
        MatchingError: as `top_k_softmax.top_k_softmax`.
    """
    if k < 1:
        raise MatchingError(f"k is {k}: at least one candidate per row is needed")
    parts = column_parts(Y, X)
    checked_norms(X, "X")
    width = k + SPARE_SLOTS
    blocks = [slice(i, min(i + tile_rows, len(X))) for i in range(0, len(X), tile_rows)]
    rows = [_rounded(torch.tensor(X[block], device=device), precision) for block in blocks]
    states = [_DeviceRows(len(block_rows), width, device) for block_rows in rows]
    columns, column_norm = 0, 0.0
    with _tensor_cores(precision):
        for first, part in parts:
            column_norm = max(column_norm, float(checked_norms(part, "Y", first).max(initial=0.0)))
            for start in range(0, len(part), tile_columns):
                tile = _rounded(torch.tensor(part[start : start + tile_columns], device=device), precision)
                for block_rows, state in zip(rows, states, strict=True):
                    state.absorb(_product(block_rows, tile), first_column + first + start)
            columns = first + len(part)
    joined = RowState(
        maximum=np.concatenate([s.maximum.double().cpu().numpy() for s in states] or [np.empty(0)]),
        sum_exp=np.concatenate([s.sum_exp.cpu().numpy() for s in states] or [np.empty(0)]),
        ids=np.concatenate([s.ids.cpu().numpy() for s in states] or [np.empty((0, width), np.int64)]),
        scores=np.concatenate([s.scores.cpu().numpy() for s in states] or [np.empty((0, width), np.float32)]),
    )
    return ShardState(joined, columns, column_norm, _rounding(precision, X.shape[1]))


class _DeviceRows:
    """State of a block of rows on the device."""

    def __init__(self, rows: int, width: int, device: str) -> None:
        self.maximum = torch.full((rows,), -torch.inf, device=device)
        self.sum_exp = torch.zeros(rows, dtype=torch.float64, device=device)
        self.ids = torch.full((rows, width), -1, dtype=torch.int64, device=device)
        self.scores = torch.full((rows, width), -torch.inf, device=device)

    def absorb(self, scores: torch.Tensor, first_column: int) -> None:
        values, columns = _largest(scores, self.scores.shape[1])
        values = torch.cat([self.scores, values], dim=1)
        ids = torch.cat([self.ids, columns + first_column], dim=1)
        self.scores, slots = torch.topk(values, self.scores.shape[1], dim=1)
        self.ids = ids.gather(1, slots)
        maximum = self.scores[:, 0]
        self.sum_exp *= torch.exp((self.maximum - maximum).double())
        self.sum_exp += scores.sub_(maximum[:, None]).exp_().sum(dim=1)
        self.maximum = maximum


def _largest(scores: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `width` largest scores of each row (all if there are fewer) and their columns.

    In two steps, since selecting among all columns takes longer than the product: the largest scores
    are in the groups with the largest maxima.
    """
    rows, columns = scores.shape
    if columns % GROUP or columns // GROUP <= width:
        return torch.topk(scores, min(width, columns), dim=1)
    groups = scores.view(rows, columns // GROUP, GROUP)
    best = torch.topk(groups.amax(dim=2), width, dim=1).indices
    members = groups.gather(1, best[:, :, None].expand(-1, -1, GROUP)).view(rows, -1)
    values, slots = torch.topk(members, width, dim=1)
    return values, best.gather(1, slots // GROUP) * GROUP + slots % GROUP


def _rounded(values: torch.Tensor, precision: TilePrecision) -> torch.Tensor:
    if precision == "bf16":
        return values.bfloat16()
    if precision == "tf32":
        # Round to 10 mantissa bits, half away from zero, so that every device multiplies the same numbers.
        return ((values.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return values


def _product(rows: torch.Tensor, tile: torch.Tensor) -> torch.Tensor:
    if rows.dtype != torch.bfloat16:
        return rows @ tile.T
    if rows.is_cuda:
        mm: Any = torch.mm
        product: torch.Tensor = mm(rows, tile.T, out_dtype=torch.float32)
        return product
    return rows.float() @ tile.float().T


def _rounding(precision: TilePrecision, dimension: int) -> float:
    inputs = {"float32": 0.0, "tf32": 2 * 2.0**-11, "bf16": 8 * np.sqrt(2 / dimension) * 2.0**-8}[precision]
    # Tensor cores sum in float32 but do not round each step to nearest: twice the bound.
    return float(inputs + 2 * float32_rounding(dimension))


@contextmanager
def _tensor_cores(precision: TilePrecision) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    # "high" lets a CUDA product of float32 matrices run in tf32.
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
