"""The matrix product that dominates the matching's time, chosen by a short probe.

Belongs here: the candidates {numpy, torch.mm, oneDNN inside torch} behind one small interface,
and the probe that picks the fastest of those that this processor can compute. Libraries differ by a
factor of two and more, and the fastest one depends on the processor, so they are measured. The int8
product of the fast mode is here too, though it is not exact.

torch is imported only when one of its products is requested or probed.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

ProductName = Literal["auto", "numpy", "torch", "onednn", "int8"]
PRODUCTS: tuple[ProductName, ...] = get_args(ProductName)

FLOAT32_UNIT = 2.0**-24

_REORDER_FROM = 6
"""Blocks of rows from which reordering a tile pays: on an AMD EPYC it costs a sixth of one product with the
tile, and saves a thirtieth of each."""

TILE_ROWS = 512
TILE_COLUMNS = 1024
"""The block of scores that a thread holds: 2 MB, so that it and the tile (4 MB at d = 1024) stay in the cache
between the product and the next step. Larger blocks take up to 3 % longer on an AMD EPYC, and more memory."""

_PROBE_SHAPE = (256, 1024)
_PROBE_ROUNDS = 3

# Relative to ‖x‖ ‖y‖: several times the error of 8 bits.
_WRONG_FROM = 0.05


class ProductUnavailableError(ValueError):
    """The product requested by name cannot be computed by this processor or this torch."""


class Product(Protocol):
    """X Yᵀ by blocks of rows and tiles of columns; each side is prepared once and used many times."""

    def rounding(self, dimension: int) -> float:
        """Largest error of a score, relative to ‖x‖ ‖y‖; infinite if unknown."""
        ...

    def prepare_rows(self, rows: NDArray[np.float32]) -> Any:
        """Convert (r, d) rows for `multiply`."""
        ...

    def prepare_columns(self, tile: NDArray[np.float32], blocks: int) -> Any:
        """Convert a (c, d) tile of columns for `multiply`, to be used with this many blocks of rows."""
        ...

    def multiply(self, rows: Any, columns: Any, scratch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(r, c) scores, valid until the next call; `scratch` has room for them."""
        ...


def float32_rounding(dimension: int) -> float:
    """Rounding error bound of a float32 inner product with unit roundoff u, relative to ‖x‖ ‖y‖.

    min(d + 2, 8 √d) u: the classical bound for any order of summation, and for long vectors the
    probabilistic one with λ = 8 (Higham and Mary 2019, A New Approach to Probabilistic Rounding
    Error Analysis, theorem 3.1).
    """
    return float(FLOAT32_UNIT * min(dimension + 2, 8 * np.sqrt(dimension)))


class NumpyProduct:
    """The BLAS that numpy was built with (OpenBLAS in its wheels)."""

    def rounding(self, dimension: int) -> float:
        """See `float32_rounding`."""
        return float32_rounding(dimension)

    def prepare_rows(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows themselves."""
        return rows

    def prepare_columns(self, tile: NDArray[np.float32], blocks: int) -> NDArray[np.float32]:
        """The tile as a matrix of d rows."""
        return tile.T

    def multiply(
        self, rows: NDArray[np.float32], columns: NDArray[np.float32], scratch: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Scores, in `scratch`."""
        scores = scratch[: len(rows) * columns.shape[1]].reshape(len(rows), -1)
        # The caller detects and names columns that are not finite or overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            np.matmul(rows, columns, out=scores)
        return scores


class TorchProduct:
    """The BLAS that torch was built with (MKL on x86)."""

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def rounding(self, dimension: int) -> float:
        """See `float32_rounding`."""
        return float32_rounding(dimension)

    def prepare_rows(self, rows: NDArray[np.float32]) -> Any:
        """The rows as a tensor."""
        return as_tensor(rows)

    def prepare_columns(self, tile: NDArray[np.float32], blocks: int) -> Any:
        """The tile as a matrix of d rows."""
        return as_tensor(tile).T

    def multiply(self, rows: Any, columns: Any, scratch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores, in `scratch`."""
        scores = scratch[: len(rows) * columns.shape[1]].reshape(len(rows), -1)
        self._torch.mm(rows, columns, out=self._torch.from_numpy(scores))
        return scores


class OneDnnProduct:
    """OneDNN, as torch ships it; a tile is reordered once if many blocks of rows share it.

    The operators are not public in torch: `refusal` checks their result, and a torch without them
    uses the other products.
    """

    def __init__(self) -> None:
        import torch

        self._reorder = torch.ops.mkldnn._reorder_linear_weight
        self._linear = torch.ops.mkldnn._linear_pointwise

    def rounding(self, dimension: int) -> float:
        """See `float32_rounding`."""
        return float32_rounding(dimension)

    def prepare_rows(self, rows: NDArray[np.float32]) -> Any:
        """The rows as a tensor."""
        return as_tensor(rows)

    def prepare_columns(self, tile: NDArray[np.float32], blocks: int) -> Any:
        """The tile, in oneDNN's own layout if that pays."""
        columns = as_tensor(tile)
        return self._reorder(columns, None) if blocks >= _REORDER_FROM else columns

    def multiply(self, rows: Any, columns: Any, scratch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores, in memory that oneDNN allocates in each call."""
        scores: NDArray[np.float32] = self._linear(rows, columns, None, "none", [], "").numpy()
        return scores


def as_tensor(array: NDArray[np.float32]) -> Any:
    """The array as a tensor that shares its memory (a copy if the array is read-only)."""
    import torch

    return torch.from_numpy(array if array.flags.writeable else array.copy())


def find_product(
    name: ProductName, dimension: int, tile_rows: int = TILE_ROWS, tile_columns: int = TILE_COLUMNS
) -> Product:
    """The product with this name; for `auto` the fastest exact one on this machine at this dimension.

    Raises:
        ValueError: the name is not one of `PRODUCTS`.
        ProductUnavailableError: this processor cannot compute it; says why and what to choose.
    """
    if name not in PRODUCTS:
        raise ValueError(f"product {name!r} is not known: choose one of {', '.join(PRODUCTS)}")
    if name == "auto":
        name = fastest_product(dimension, tile_rows, tile_columns)
    why = refusal(name, dimension, tile_rows, tile_columns)
    if why:
        raise ProductUnavailableError(
            f"matching_product {name!r} cannot be computed on this processor at {dimension} dimensions: "
            f"{why}; set matching_product to auto, which takes the fastest that works"
        )
    return _product(name)


def _product(name: ProductName) -> Product:
    if name == "torch":
        return TorchProduct()
    if name == "onednn":
        return OneDnnProduct()
    if name == "int8":
        return Int8Product()
    return NumpyProduct()


@lru_cache(maxsize=256)
def refusal(
    name: ProductName, dimension: int, tile_rows: int = TILE_ROWS, tile_columns: int = TILE_COLUMNS
) -> str:
    """Why a product cannot be computed here, in full and partial blocks; empty if it can.

    Found by trying, since neither an operator's presence nor the processor's name is enough: it may refuse
    a size, and int8 sums saturate in oneDNN if the processor lacks VNNI. numpy always works.
    """
    if name == "numpy":
        return ""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((tile_rows, dimension), dtype=np.float32)
    Y = rng.standard_normal((tile_columns, dimension), dtype=np.float32)
    X[0] = Y[0] = 1.0  # the largest sums that int8 can have
    scratch = np.empty(tile_rows * tile_columns, dtype=np.float32)
    expected = X.astype(np.float64) @ Y.T.astype(np.float64)
    norms = np.linalg.norm(X, axis=1)[:, None] * np.linalg.norm(Y, axis=1)
    try:
        product = _product(name)
        allowed = min(product.rounding(dimension), _WRONG_FROM) * norms
        with one_thread_each():
            for rows in sorted({1, min(7, tile_rows), tile_rows}):
                prepared = product.prepare_rows(X[:rows])
                for columns in sorted({1, min(5, tile_columns), tile_columns}):
                    for blocks in (1, _REORDER_FROM):
                        tile = product.prepare_columns(Y[:columns], blocks)
                        off = np.abs(product.multiply(prepared, tile, scratch) - expected[:rows, :columns])
                        if not (off <= allowed[:rows, :columns]).all():
                            return f"{rows} × {columns} scores are wrong by up to {off.max():.3g}"
    except (ImportError, AttributeError, RuntimeError) as error:
        return str(error).splitlines()[0].partition(". Run workload with")[0]
    return ""


@lru_cache(maxsize=64)
def fastest_product(
    dimension: int, tile_rows: int = TILE_ROWS, tile_columns: int = TILE_COLUMNS
) -> ProductName:
    """Name of the product with the least CPU time on a small block; about 0.2 s, once per process."""
    speeds = measure_products(dimension, tile_rows, tile_columns)
    return max(speeds, key=lambda name: speeds[name])


def measure_products(
    dimension: int, tile_rows: int = TILE_ROWS, tile_columns: int = TILE_COLUMNS
) -> dict[ProductName, float]:
    """GFLOP per CPU second, on one thread, of each exact product that works here; numpy always works."""
    rows, columns = _PROBE_SHAPE
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, dimension), dtype=np.float32)
    Y = rng.standard_normal((columns, dimension), dtype=np.float32)
    scratch = np.empty(rows * columns, dtype=np.float32)
    exact: tuple[ProductName, ...] = ("numpy", "torch", "onednn")
    ready: dict[ProductName, tuple[Product, Any, Any]] = {}
    for name in exact:
        if not refusal(name, dimension, tile_rows, tile_columns):
            product = _product(name)
            ready[name] = (product, product.prepare_rows(X), product.prepare_columns(Y, _REORDER_FROM))
    seconds: dict[ProductName, list[float]] = {name: [] for name in ready}
    with one_thread_each():
        for _ in range(_PROBE_ROUNDS):
            for name, (product, prepared_rows, prepared_columns) in ready.items():
                start = time.thread_time()
                product.multiply(prepared_rows, prepared_columns, scratch)
                seconds[name].append(time.thread_time() - start)
    work = 2e-9 * rows * columns * dimension
    return {name: work / max(float(np.median(times)), 1e-9) for name, times in seconds.items()}


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Limit every BLAS to one thread, since the rows are split over threads instead.

    The limits are restored on exit. A thread started inside must call `work_alone` first, since OpenMP
    keeps its thread count per thread.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    with threadpool_limits(limits=1):
        work_alone()
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


def work_alone() -> None:
    """Limit torch, if it is loaded, to one thread for calls from this thread."""
    torch = sys.modules.get("torch")
    if torch:
        torch.set_num_threads(1)


_LARGEST = 127.0
_AT_ONCE = 128


class Int8Product:
    """int8 × int8 → int32 in torch: four times the speed of float32 on a processor with AVX-512 VNNI.

    Not exact, and never the default. Without VNNI, torch adds the products one by one (slower than
    float32), or its oneDNN lets sums saturate, which `refusal` finds.
    """

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def rounding(self, dimension: int) -> float:
        """Infinite: depends on the data. Every candidate is scored again; no others are searched."""
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
        # Few rows at a time, so that they stay in the cache from one pass to the next.
        for start in range(0, rows.shape[0], _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            # Two reductions are many times faster than a combined one, or one of absolute values.
            high, low = rows[part].amax(dim=1, keepdim=True), rows[part].amin(dim=1, keepdim=True)
            scales[part] = self._torch.maximum(high, low.neg_()).clamp_(min=1e-30).div_(_LARGEST)
            numbers[part] = (rows[part] * scales[part].reciprocal()).round_()
        return numbers, scales


@dataclass(frozen=True)
class FastModeAccuracy:
    """Accuracy of the fast mode on a sample of rows; stored beside the asset.

    Attributes:
        rows: number of rows measured.
        equal_sets: share of rows whose set of K columns is the exact one.
        log_sum_exp: largest absolute error of the log-sum-exp.
    """

    rows: int
    equal_sets: float
    log_sum_exp: float
