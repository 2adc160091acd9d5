"""Rows of S = softmax(X Yᵀ) without ever holding N × M: the K best columns and the denominator.

Belongs here: tiling, threads, shards, and input checks. The state of a row is in `row_state.py`, the
product in `product.py`, the work on a block of scores in `plain.py` and `compiled.py`, the order of
near-ties in `exact_order.py`.

Ids are column positions (or what `column_ids` maps them to), and the lower id wins ties: to break ties
by name, sort the columns by name, or pass each column's rank.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emid_assets.matching import plain
from emid_assets.matching.exact_order import SPARE_SLOTS, Errors, settle
from emid_assets.matching.product import (
    FLOAT32_UNIT,
    TILE_COLUMNS,
    TILE_ROWS,
    Product,
    ProductName,
    find_product,
    float32_rounding,
    one_thread_each,
    work_alone,
)
from emid_assets.matching.row_state import RowState, empty_row_state, merge

TILE = (TILE_ROWS, TILE_COLUMNS)
SMALL_PROBLEM = 2e11
"""FLOP below which only numpy is used: it takes a second, less than loading anything faster."""

LARGEST_SCORE = 1e37
"""Scores must stay well inside float32."""

Columns = NDArray[np.float32] | Iterable[NDArray[np.float32]]
"""Y: one (M, d) array, or a re-iterable over its (c, d) parts.

An attribute `columns` may give the total number of columns.
"""

Backend = Literal["auto", "numba", "numpy"]


class MatchingError(ValueError):
    """The embeddings cannot be matched; the message says which side and row, and why."""


@dataclass(frozen=True)
class ShardState:
    """Rows over some of the columns, not yet settled: the result of a column shard, to be merged.

    Attributes:
        state: rows with K and some spare slots; ids are column positions.
        columns: number of columns seen.
        column_norm: the largest norm among them.
        rounding: largest error of a score, relative to ‖x‖ ‖y‖.
    """

    state: RowState
    columns: int
    column_norm: float
    rounding: float


def merge_shards(shards: Sequence[ShardState]) -> ShardState:
    """Join shards of the same rows over disjoint columns, in any order."""
    state = shards[0].state
    for shard in shards[1:]:
        state = merge(state, shard.state)
    return ShardState(
        state=state,
        columns=sum(shard.columns for shard in shards),
        column_norm=max(shard.column_norm for shard in shards),
        rounding=max(shard.rounding for shard in shards),
    )


def top_k_softmax(
    X: NDArray[np.float32],
    Y: Columns,
    k: int,
    *,
    column_ids: NDArray[np.int64] | None = None,
    threads: int | None = None,
    product: ProductName = "auto",
    backend: Backend = "auto",
    tile: tuple[int, int] = TILE,
) -> RowState:
    """The K largest entries of every row of X Yᵀ, and the row's softmax denominator over all columns.

    Exact (except for product `int8`): ids and scores are those of a float64 brute force ordered by (score
    descending, id ascending); the log-sum-exp is rounded to `row_state.LOG_SUM_EXP_STEP`, so that
    probabilities are right to .05 %. All of them have the same bits whatever the threads, product, tiles,
    shards and inner loops.

    Args:
        X: (N, d) float32 rows (music).
        Y: (M, d) float32 columns (images), or a re-iterable over (c, d) parts, such as a list, not a
            generator (near-ties need a second pass).
        k: columns to keep for each row; all M if K > M.
        column_ids: (M,) int64 distinct id ≥ 0 of each column, which breaks ties; None: its position.
        threads: threads that the rows are split over; None: every processor that this process may use.
        product: `auto` probes for the fastest; `int8` is the fast mode, see `Int8Product`.
        backend: the inner loops: `numba`, `numpy`, or `auto` (numba if it is installed and the problem
            is not small).
        tile: largest number of rows and columns of a block of scores.

    Returns:
        State of width min(K, M).

    Raises:
        MatchingError: no columns, not float32, different dimensions, k < 1, or a non-finite number (the
            message names the row).
        ProductUnavailableError: this processor cannot compute the requested product.
    """
    shard = shard_state(
        X,
        Y,
        k,
        threads=threads,
        product=product,
        backend=backend,
        tile=tile,
    )
    return settle_shards(shard, X, Y, k, column_ids=column_ids, backend=backend)


def shard_state(
    X: NDArray[np.float32],
    Y: Columns,
    k: int,
    *,
    first_column: int = 0,
    threads: int | None = None,
    product: ProductName = "auto",
    backend: Backend = "auto",
    tile: tuple[int, int] = TILE,
) -> ShardState:
    """The first half of `top_k_softmax`, over a shard of the columns that starts at `first_column`.

    `merge_shards` joins the states of disjoint column shards, `row_state.stack` those of row shards,
    wherever they were computed; `settle_shards` then makes them exact. Arguments and errors as in
    `top_k_softmax`.
    """
    if k < 1:
        raise MatchingError(f"k is {k}: at least one candidate per row is needed")
    parts = column_parts(Y, X)
    small = 2.0 * len(X) * X.shape[1] * parts.known_columns < SMALL_PROBLEM
    inner = _inner_loops(backend, small)
    name: ProductName = "numpy" if product == "auto" and small else product
    chosen = find_product(name, X.shape[1], *tile)
    spare = SPARE_SLOTS if np.isfinite(chosen.rounding(X.shape[1])) else SPARE_SLOTS + k // 4
    state = empty_row_state(len(X), k + spare)
    columns = 0
    with one_thread_each(), _Rows(X, state, chosen, inner, threads, *tile) as rows:
        for first, part in parts:
            rows.absorb(first_column, first, part)
            columns = first + len(part)
    return ShardState(state, columns, rows.column_norm, chosen.rounding(X.shape[1]))


def settle_shards(
    shard: ShardState,
    X: NDArray[np.float32],
    Y: Columns,
    k: int,
    *,
    column_ids: NDArray[np.int64] | None = None,
    backend: Backend = "auto",
) -> RowState:
    """The second half of `top_k_softmax`: the exact order, from the state over **all** columns.

    Args:
        shard: the rows' state over all columns of Y (see `merge_shards`).
        X: the rows.
        Y: all columns, of which few are read.
        k: as for the shards, or less.
        column_ids: as in `top_k_softmax`.
        backend: as in `top_k_softmax`.

    Raises:
        MatchingError: no columns, or not as many columns as the shards saw.
    """
    if shard.columns == 0:
        raise MatchingError("there are no columns to match against: Y holds no image embeddings")
    parts = column_parts(Y, X)
    if parts.known_columns not in (shard.columns, np.inf):
        raise MatchingError(
            f"the shards hold {shard.columns} columns and Y {parts.known_columns:.0f}: merge all of them"
        )
    if column_ids is not None and len(column_ids) != shard.columns:
        raise MatchingError(f"{len(column_ids)} column ids were given for {shard.columns} columns")
    small = 2.0 * len(X) * X.shape[1] * shard.columns < SMALL_PROBLEM
    norms = checked_norms(X, "X").astype(np.float64) * shard.column_norm
    # An eighth of the bound of a long sum is its λ = 1, several times the deviation that is measured.
    typical = max(shard.rounding / 8, 8 * FLOAT32_UNIT)
    in_float32 = shard.rounding <= 2 * float32_rounding(X.shape[1])
    errors = Errors(norms * shard.rounding, norms * typical if in_float32 else None)
    return settle(shard.state, X, parts, k, shard.columns, errors, column_ids, _inner_loops(backend, small))


def pair_scores(
    X: NDArray[np.float32], rows: NDArray[np.intp], Y: Columns, columns: NDArray[np.intp]
) -> NDArray[np.float32]:
    """(p,) scores X[rows[i]] · Y[columns[i]], the same bits as those that `top_k_softmax` gives."""
    scores = np.empty(len(rows), dtype=np.float32)
    inner = _inner_loops("auto", 2.0 * len(rows) * X.shape[1] < SMALL_PROBLEM)
    for first, part in column_parts(Y, X):
        here = np.flatnonzero((columns >= first) & (columns < first + len(part)))
        scores[here] = inner.exact_scores(X, rows[here], part, columns[here] - first)
    return scores


def fit_memory(memory_mb: float, dimension: int, k: int, threads: int) -> tuple[int, int]:
    """How many rows of X and columns of Y fit in memory together with their states and the tiles.

    Raises:
        MatchingError: the memory is too small for one row and one tile.
    """
    tiles = threads * _tile_bytes(dimension)
    left = memory_mb * 1e6 - tiles
    # A row: itself, its wide state, its final state, and what settling takes.
    per_row = 4 * dimension + 48 * (k + SPARE_SLOTS)
    rows, columns = int(left * 2 / 3 / per_row), int(left / 3 / (4 * dimension))
    if rows < 1 or columns < 1:
        raise MatchingError(f"{memory_mb} MB is too little: the tiles alone take {tiles / 1e6:.0f} MB")
    return rows, columns


def _tile_bytes(dimension: int) -> int:
    """Memory of one thread: a block of scores twice (oneDNN allocates its own) and a reordered tile."""
    return 4 * (2 * TILE_ROWS * TILE_COLUMNS + TILE_COLUMNS * dimension)


class _Rows:
    """All rows with their state, split into blocks that threads work on."""

    def __init__(
        self,
        X: NDArray[np.float32],
        state: RowState,
        product: Product,
        inner: ModuleType,
        threads: int | None,
        tile_rows: int,
        tile_columns: int,
    ) -> None:
        # Blocks of equal size. Their number is a multiple of four, so that a few threads finish together.
        count = -(-len(X) // tile_rows)
        count = max(1, count if count < 3 else -(-count // 4) * 4)
        edges = np.linspace(0, len(X), count + 1).astype(int)
        blocks = [slice(a, b) for a, b in pairwise(edges) if b > a]
        self._product, self._inner, self._tile_columns = product, inner, tile_columns
        self._prepared = [product.prepare_rows(np.ascontiguousarray(X[block])) for block in blocks]
        self._states = [_rows_of(state, block) for block in blocks]
        workers = max(1, min(threads or usable_processors(), len(blocks)))
        self._shares = [range(i, len(blocks), workers) for i in range(workers)]
        largest = max((block.stop - block.start for block in blocks), default=0)
        self._scratch = [np.empty(largest * tile_columns, dtype=np.float32) for _ in range(workers)]
        self._row_norm = float(checked_norms(X, "X").max(initial=0.0))
        self._column_norms = [0.0] * workers
        self._pool = ThreadPoolExecutor(workers, initializer=work_alone) if workers > 1 else None

    @property
    def column_norm(self) -> float:
        return max(self._column_norms)

    def __enter__(self) -> "_Rows":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown()

    def absorb(self, first_column: int, first: int, part: NDArray[np.float32]) -> None:
        if self._pool is None:
            self._work(0, first_column, first, part)
        else:
            workers = range(len(self._shares))
            done = [self._pool.submit(self._work, i, first_column, first, part) for i in workers]
            for future in done:
                future.result()

    def _work(self, worker: int, first_column: int, first: int, part: NDArray[np.float32]) -> None:
        for start in range(0, len(part), self._tile_columns):
            tile = np.ascontiguousarray(part[start : start + self._tile_columns])
            columns = self._product.prepare_columns(tile, len(self._shares[worker]))
            for turn, block in enumerate(self._shares[worker]):
                scores = self._product.multiply(self._prepared[block], columns, self._scratch[worker])
                if turn == 0:
                    # The product has just loaded the tile into the cache: before it, this would cost 4 %.
                    self._check_columns(worker, tile, first + start)
                self._inner.absorb(scores, first_column + first + start, self._states[block])
                # Free before the next is computed, or two of each would be in memory.
                del scores
            del columns

    def _check_columns(self, worker: int, tile: NDArray[np.float32], first: int) -> None:
        largest = float(checked_norms(tile, "Y", first).max(initial=0.0))
        if self._row_norm * largest > LARGEST_SCORE:
            raise MatchingError(
                f"lengths of {self._row_norm:.3g} and {largest:.3g}: their product overflows float32"
            )
        self._column_norms[worker] = max(self._column_norms[worker], largest)


class _Parts:
    """The columns as (first position, checked array) parts, from an array or an iterable."""

    def __init__(self, Y: Columns, X: NDArray[np.float32]) -> None:
        if isinstance(Y, Iterator):
            raise MatchingError("Y is a one-way iterator: pass a list, or an object that reopens it")
        _check_array(X, "X")
        self._parts = [Y] if isinstance(Y, np.ndarray) else Y
        self._dimension = X.shape[1]
        if isinstance(self._parts, list):
            self.known_columns = float(sum(len(part) for part in self._parts))
        else:
            self.known_columns = float(getattr(self._parts, "columns", np.inf))

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        first = 0
        for part in self._parts:
            _check_array(part, "Y")
            if part.shape[1] != self._dimension:
                raise MatchingError(
                    f"Y is {part.shape[1]} wide and X {self._dimension}: use one encoder for both"
                )
            yield first, part
            first += len(part)


def column_parts(Y: Columns, X: NDArray[np.float32]) -> _Parts:
    """The columns as (first position, checked array) parts that can be read repeatedly.

    Raises:
        MatchingError: Y can be read only once, or X is not a float32 matrix.
    """
    return _Parts(Y, X)


def usable_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_norms(rows: NDArray[np.float32], side: str, first: int = 0) -> NDArray[np.float32]:
    """(n,) float32 norms of the rows of one side, slightly rounded up.

    Raises:
        MatchingError: a number is not finite; names the row, counted from `first`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        norms: NDArray[np.float32] = np.sqrt(np.vecdot(rows, rows))
    if not np.isfinite(norms).all():
        for i in np.flatnonzero(~np.isfinite(norms)):
            if not np.isfinite(rows[i]).all():
                raise MatchingError(
                    f"row {first + i} of {side} holds a number that is not finite: encode it again"
                )
        # The squares overflow; the numbers themselves do not.
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)).astype(np.float32)
    return norms * np.float32(1.0001)


def _inner_loops(backend: Backend, small: bool) -> ModuleType:
    if backend == "numpy" or (backend == "auto" and small):
        return plain
    try:
        from emid_assets.matching import compiled
    except ImportError:
        if backend == "numba":
            raise
        return plain
    return compiled


def _rows_of(state: RowState, rows: slice) -> RowState:
    return RowState(state.maximum[rows], state.sum_exp[rows], state.ids[rows], state.scores[rows])


def _check_array(array: NDArray[np.float32], side: str) -> None:
    if array.ndim != 2 or array.dtype != np.float32:
        raise MatchingError(f"{side} is {array.dtype} of shape {array.shape}: a float32 matrix is needed")
