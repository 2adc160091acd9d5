"""Worker processes that prepare media ahead of the device.

Belongs here: starting the workers, handing out items, returning results in the order of the items,
and detecting a dead worker. The encoder decides what is prepared and how.

Workers are plain child processes (a fresh interpreter that runs `serve`) that talk over a socket
pair, not a `multiprocessing` pool: they start with a clean interpreter whatever threads the
parent runs, do not re-import the main module, and may be started from a daemonic process, which a
Dagster run can be. A worker exits when the parent's end of its socket closes, so a killed parent
leaves none behind. Workers that have finished wait for the next job: starting one takes as long as
importing torch, and a build embeds some twenty partitions.
"""

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from socket import MSG_WAITALL, socket, socketpair

import numpy as np

from emid_assets.encoders.interface import MediaItem, Prepared

Prepare = Callable[[MediaItem], Prepared]


class WorkerDiedError(RuntimeError):
    """A worker process ended before it finished its work."""


class PreparationCrashError(RuntimeError):
    """An item's preparation failed with an error that is not the item's fault."""


def prepare_one(prepare: Prepare, item: MediaItem) -> Prepared | str:
    """The prepared item, or the reason why it cannot be encoded.

    Raises:
        PreparationCrashError: any error that is not about the file; names the item.
    """
    try:
        return prepare(item)
    except (ValueError, OSError, EOFError) as error:
        return str(getattr(error, "reason", "")) or f"{type(error).__name__}: {error}"
    except MemoryError:
        return "not enough memory to read the file"
    except Exception as error:
        raise PreparationCrashError(
            f"preparing {item.item_id} ({item.path}) failed: {type(error).__name__}: {error}"
        ) from error


def prepare_all(
    prepare: Prepare, items: Sequence[MediaItem], workers: int, ahead: int
) -> Iterator[tuple[MediaItem, Prepared | str]]:
    """Prepare items in order, with `workers` processes that work ahead of the consumer.

    Until the first worker has started, items are prepared in this process.

    Consecutive items of one file go to one process, in order, so that `prepare` can cache the file.

    Args:
        prepare: a module-level function, or an object that can be pickled.
        items: what to prepare.
        workers: processes; 0 prepares in this one.
        ahead: prepared items that may wait for the consumer; more than it takes at once, or it waits
            for the rest of each batch.

    Yields:
        each item with its prepared array, or with the reason why it has none.

    Raises:
        WorkerDiedError: says how the worker ended and which item it was preparing.
        PreparationCrashError: as `prepare_one`.
    """
    if workers == 0:
        for item in items:
            yield item, prepare_one(prepare, item)
        return
    crew = _Crew(prepare, items, workers, ahead)
    try:
        yield from crew.results()
    finally:
        crew.dismiss()


class _Crew:
    """The running workers, with one thread for each that sends items and receives results.

    The threads only wait on sockets.
    """

    def __init__(self, prepare: Prepare, items: Sequence[MediaItem], workers: int, ahead: int) -> None:
        self._prepare = prepare
        self._items = items
        self._runs = _runs_of_one_file(items)
        self._todo = deque(self._runs)
        self._ahead_each = max(1, ahead // max(1, min(workers, len(items))))
        self._started = False
        self._taken = 0
        self._done: dict[int, Prepared | str] = {}
        self._failure: Exception | None = None
        self._dismissed = False
        self._changed = threading.Condition()
        self._workers = [_idle_or_new_worker() for _ in range(min(workers, len(items)))]
        self._threads = [threading.Thread(target=self._feed, args=(worker,)) for worker in self._workers]
        for thread in self._threads:
            thread.start()

    def results(self) -> Iterator[tuple[MediaItem, Prepared | str]]:
        for run in self._runs:
            with self._changed:
                by_us = not self._started and not self._failure
                if by_us:
                    self._todo.popleft()
            for index in run:
                own = prepare_one(self._prepare, self._items[index]) if by_us else ""
                with self._changed:
                    while not by_us and index not in self._done:
                        if self._failure:
                            raise self._failure
                        self._changed.wait()
                    result = own if by_us else self._done.pop(index)
                    self._taken = index + 1
                    self._changed.notify_all()
                yield self._items[index], result

    def dismiss(self) -> None:
        with self._changed:
            self._dismissed = True
            self._changed.notify_all()
        for worker in self._workers:
            if worker.busy:
                worker.kill()
        # A thread that waits for a worker's answer wakes up when the dead worker's socket closes.
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            if worker.busy:
                worker.kill()
                worker.close()
            else:
                worker.end_job()
                _idle_workers.append(worker)

    def _start(self, worker: "_Worker") -> "_Worker":
        """Start a worker; replace one that was kept from another job and has died since."""
        try:
            worker.start(self._prepare)
        except WorkerDiedError:
            with self._changed:
                if not worker.is_kept or self._ended:
                    raise
                worker.close()
                new = _Worker(worker.surroundings)
                self._workers[self._workers.index(worker)] = worker = new
            worker.start(self._prepare)
        return worker

    def _feed(self, worker: "_Worker") -> None:
        try:
            worker = self._start(worker)
        except WorkerDiedError as error:
            self._fail(error)
            return
        with self._changed:
            self._started = True
        waiting: deque[int] = deque()  # results of this worker that nobody has taken yet
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or not self._todo or self._has_room(waiting))
                if self._ended or not self._todo:
                    return
                run = self._todo.popleft()
            for index in run:
                with self._changed:
                    self._changed.wait_for(lambda: self._ended or self._has_room(waiting))
                    if self._ended:
                        return
                try:
                    result = worker.prepare(self._items[index])
                except (WorkerDiedError, PreparationCrashError) as error:
                    self._fail(error)
                    return
                with self._changed:
                    self._done[index] = result
                    waiting.append(index)
                    self._changed.notify_all()

    @property
    def _ended(self) -> bool:
        return self._dismissed or self._failure is not None

    def _has_room(self, waiting: "deque[int]") -> bool:
        while waiting and waiting[0] < self._taken:
            waiting.popleft()
        return len(waiting) < self._ahead_each

    def _fail(self, error: Exception) -> None:
        with self._changed:
            if not self._dismissed:
                self._failure = self._failure or error
            self._changed.notify_all()


def _runs_of_one_file(items: Sequence[MediaItem]) -> list[range]:
    """Consecutive items of one file, as ranges of their indices."""
    starts = [i for i, item in enumerate(items) if i == 0 or item.path != items[i - 1].path]
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(items)], strict=True)]


class _Worker:
    """One child process and the parent's end of its socket.

    A message is a pickle. An array is sent as its pickled type and shape, followed by plain bytes that
    are received directly into the array.

    Attributes:
        surroundings: what the process inherited; a worker with other surroundings cannot replace it.
        busy: it has not answered the last request.
        is_kept: it has finished a job before.
    """

    def __init__(self, surroundings: "_Surroundings") -> None:
        self.surroundings = surroundings
        self.busy = True
        self.is_kept = False
        self._socket, theirs = socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import serve; serve({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd=surroundings.folder,
                env=surroundings.environment,
            )
        self._connection = Connection(os.dup(self._socket.fileno()))

    def start(self, prepare: Prepare) -> None:
        """Wait until the process runs and has imported what `prepare` needs."""
        self.busy = True
        try:
            self._connection.send(prepare)
            self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise WorkerDiedError(
                f"a worker process {_how_it_ended(self._process.wait())} while it started: see its message "
                "above, or set workers = 0 to prepare in the run itself"
            ) from error
        self.busy = False

    def prepare(self, item: MediaItem) -> Prepared | str:
        self.busy = True
        try:
            self._connection.send(item)
            result: _Array | str | PreparationCrashError = self._connection.recv()
            prepared = result.receive(self._socket) if isinstance(result, _Array) else result
        except (EOFError, OSError) as error:
            raise WorkerDiedError(
                f"a worker process {_how_it_ended(self._process.wait())} while it prepared {item.item_id} "
                f"({item.path}); rows encoded before are kept where a journal is in use: run again, with "
                "fewer workers if memory was short, or with workers = 0 to prepare in the run itself"
            ) from error
        self.busy = False
        if isinstance(prepared, PreparationCrashError):
            raise prepared
        return prepared

    def end_job(self) -> None:
        """Make it ready for another job; a dead worker is detected at the next start."""
        self.is_kept = True
        with suppress(OSError):
            self._connection.send(None)

    def lives(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self._connection.close()
        self._socket.close()


@dataclass(frozen=True)
class _Surroundings:
    """What a worker inherits from this process: its folder and its environment."""

    folder: str
    environment: dict[str, str]

    @classmethod
    def here(cls) -> "_Surroundings":
        # One thread each: the parallelism is the number of workers. The parent may have found this
        # package through its path alone, so the child gets the same path.
        path = os.pathsep.join(filter(None, sys.path))
        return cls(str(Path.cwd()), {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path})


_idle_workers: list[_Worker] = []


def _idle_or_new_worker() -> _Worker:
    surroundings = _Surroundings.here()
    while _idle_workers:
        worker = _idle_workers.pop()
        if worker.lives() and worker.surroundings == surroundings:
            return worker
        worker.kill()
        worker.close()
    return _Worker(surroundings)


@dataclass(frozen=True)
class _Array:
    """Announces an array whose bytes follow."""

    dtype: str
    shape: tuple[int, ...]

    def receive(self, socket: socket) -> Prepared:
        array = np.empty(self.shape, self.dtype)
        rest = array.data.cast("B") if array.size else memoryview(b"")
        while rest:
            received = socket.recv_into(rest, len(rest), MSG_WAITALL)
            if not received:
                raise EOFError
            rest = rest[received:]
        return array


def _how_it_ended(returncode: int) -> str:
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"ended with exit status {returncode}"


def serve(file_descriptor: int) -> None:
    """The worker's side: prepare items until the parent's end of the socket closes."""
    # Ctrl-C in a terminal reaches every process of the group; the parent decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (
        suppress(EOFError, ConnectionError),
        socket(fileno=file_descriptor) as ours,
        Connection(os.dup(file_descriptor)) as connection,
    ):
        while True:
            _serve_job(connection, ours)


def _serve_job(connection: Connection, ours: socket) -> None:
    """Serve one job's items; whatever its `prepare` has cached is freed at the end."""
    prepare: Prepare = connection.recv()
    connection.send_bytes(b"ready")
    while (item := connection.recv()) is not None:
        _answer(connection, ours, prepare, item)


def _answer(connection: Connection, ours: socket, prepare: Prepare, item: MediaItem) -> None:
    try:
        result: Prepared | str | PreparationCrashError = prepare_one(prepare, item)
    except PreparationCrashError as error:
        result = PreparationCrashError(f"{error}\n{traceback.format_exc()}")
    if isinstance(result, np.ndarray):
        array = np.ascontiguousarray(result)
        connection.send(_Array(array.dtype.str, array.shape))
        ours.sendall(array.data.cast("B") if array.size else b"")
    else:
        connection.send(result)
