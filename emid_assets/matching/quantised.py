"""The fast mode: scores from an int8 product. Not exact, and never the default.

Belongs here: quantisation with one scale per row (of either side), and the int8 product. What it got
wrong is measured by `alignment.measure_fast_mode`. The candidates' own scores are computed again in float64,
so what can differ is a candidate that int8 ranked below the spare slots, and the denominator.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching.product import as_tensor

_LARGEST = 127.0
_AT_ONCE = 128


class Int8Product:
    """int8 × int8 → int32 in torch: four times the speed of float32 where the processor has AVX-512 VNNI.

    Without VNNI, torch adds the products one by one (slower than float32), or its oneDNN lets sums
    saturate, which `product.refusal` finds.
    """

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def rounding(self, dimension: int) -> float:
        """Infinite: depends on the data. Every candidate is scored again, none is looked for again."""
        return float("inf")

    def prepare_rows(self, rows: NDArray[np.float32]) -> Any:
        """(r, d) int8 and (r, 1) scales."""
        return self._quantise(as_tensor(rows))

    def prepare_columns(self, tile: NDArray[np.float32], blocks: int) -> Any:
        """(d, c) int8 and (1, c) scales."""
        numbers, scales = self._quantise(as_tensor(tile))
        return numbers.T, scales.T

    def multiply(self, rows: Any, columns: Any, scratch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores, in `scratch`."""
        shape = rows[0].shape[0], columns[0].shape[1]
        scores = scratch[: shape[0] * shape[1]].reshape(shape)
        whole = self._torch.from_numpy(scores.view(np.int32))
        self._torch._int_mm(rows[0], columns[0], out=whole)
        tensor = self._torch.from_numpy(scores)
        self._torch.mul(whole, columns[1], out=tensor)
        tensor *= rows[1]
        return scores

    def _quantise(self, rows: Any) -> tuple[Any, Any]:
        numbers = self._torch.empty(rows.shape, dtype=self._torch.int8)
        scales = self._torch.empty(rows.shape[0], 1)
        # Few rows at a time: they stay in the cache from one pass to the next.
        for start in range(0, rows.shape[0], _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            # Two reductions are many times faster than one of both, or of absolute values.
            high, low = rows[part].amax(dim=1, keepdim=True), rows[part].amin(dim=1, keepdim=True)
            scales[part] = self._torch.maximum(high, low.neg_()).clamp_(min=1e-30).div_(_LARGEST)
            numbers[part] = (rows[part] * scales[part].reciprocal()).round_()
        return numbers, scales


@dataclass(frozen=True)
class FastModeError:
    """What the fast mode got wrong on the rows it was measured on; goes beside the asset.

    Attributes:
        rows: how many rows were measured.
        equal_sets: share of rows whose set of K columns is the exact one.
        log_sum_exp: largest absolute error of the log-sum-exp.
    """

    rows: int
    equal_sets: float
    log_sum_exp: float
