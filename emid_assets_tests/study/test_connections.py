"""Silent, slow and countless connections to a real server: they do not close it for others."""

import asyncio
import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from emid_assets.study.connections import LimitedConnection
from emid_assets_tests.study.conftest import Study, copy_of, participant, sent, trials_of
from emid_assets_tests.study.served import Server
from emid_assets_tests.web import wait_for

SILENT = 500
BEGINNINGS = (
    b"",
    b"GET / HTTP/1.1\r\nHost: study\r\n",
    b"POST /answers HTTP/1.1\r\nHost: study\r\nContent-Length: 400\r\n\r\n{",
    b"GET / HTTP/1.1\r\nHost: study\r\nContent-Length: 400\r\n\r\n",
)
"""What a silent client has sent of a request: nothing, a part of its headers, a part of its body."""


def connected(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))


def is_open(client: socket.socket) -> bool:
    """Whether the server has not closed it; what it has answered is read."""
    while select.select([client], [], [], 0)[0]:
        try:
            if not client.recv(65536):
                return False
        except OSError:
            return False
    return True


def test_500_silent_connections_keep_nobody_from_reading_the_page_and_answering(
    study: Study, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    server = serve(copy_of(study, tmp_path))
    design, who = study.design, participant(70)
    with contextlib.ExitStack() as opened:
        silent = [
            opened.enter_context(connected(server.port, f"127.0.0.{2 + number // 50}"))
            for number in range(SILENT)
        ]
        for number, client in enumerate(silent):
            client.sendall(BEGINNINGS[number % len(BEGINNINGS)])
        answers = [sent(design, who, trial) for trial in trials_of(design, who)]
        assert {server.post(answer) for answer in answers} == {(201, "stored")}
        of_one = [opened.enter_context(connected(server.port, "127.0.0.99")) for _ in range(150)]
        wait_for(lambda: sum(map(is_open, of_one)) <= LimitedConnection.most_of_one, "50 closed", 30)
        assert sum(map(is_open, of_one)) == LimitedConnection.most_of_one
        assert all(map(is_open, of_one[-50:]))  # the oldest made room


class Impatient(LimitedConnection):
    seconds = 1.0


class Crowded(LimitedConnection):
    most_of_one = 3
    most = 5


LARGE = b"x" * 20_000_000
GET = b"GET / HTTP/1.1\r\nHost: study\r\n\r\n"


@dataclass
class Running:
    """A server in this process: it answers `/slow` once `go` is set, `/large` at length, the rest at once."""

    port: int
    go: threading.Event
    server: uvicorn.Server

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    go = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        while scope["path"] == "/slow" and not go.is_set():
            await asyncio.sleep(0.01)
        body = LARGE if scope["path"] == "/large" else b"done"
        head = {"type": "http.response.start", "status": 200}
        await send(head | {"headers": [(b"content-length", str(len(body)).encode())]})
        for start in range(0, len(body), 65536):
            chunk = body[start : start + 65536]
            await send({"type": "http.response.body", "body": chunk, "more_body": start + 65536 < len(body)})

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=request.param, ws="none", lifespan="off", log_level="error", timeout_keep_alive=60
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield Running(listener.getsockname()[1], go, server)
    go.set()
    server.should_exit = True
    thread.join(30)


@pytest.mark.parametrize("running", [Impatient], indirect=True)
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_request_that_does_not_arrive_is_not_waited_for_even_if_it_comes_byte_by_byte(
    running: Running, beginning: bytes
) -> None:
    with connected(running.port) as silent, connected(running.port) as dripping:
        for client in (silent, dripping):
            client.sendall(beginning)

        def drip() -> bool:
            with contextlib.suppress(OSError):
                dripping.sendall(b"x")
            return not is_open(dripping)

        wait_for(lambda: not is_open(silent), "the end of the silent one", 30)
        wait_for(drip, "the end of the dripping one", 30)


@pytest.mark.parametrize("running", [Impatient], indirect=True)
def test_a_second_request_of_a_connection_has_as_long_as_the_first(running: Running) -> None:
    with connected(running.port) as client:
        for _ in range(2):
            client.sendall(GET)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        client.sendall(GET[:-4])
        wait_for(lambda: not is_open(client), "its end", 30)


@pytest.mark.parametrize("running", [Impatient], indirect=True)
def test_an_answer_that_nobody_reads_is_given_up_and_a_slow_reader_gets_all_of_it(running: Running) -> None:
    with connected(running.port) as deaf, connected(running.port) as slow:
        for client in (deaf, slow):
            client.sendall(GET.replace(b"/ ", b"/large "))
        read = 0
        while read < len(LARGE):
            read += len(slow.recv(100_000))
            time.sleep(0.012)  # in all longer than the server waits for one that reads nothing
        wait_for(lambda: not running.connections, "the end of the deaf one", 30)


@pytest.mark.parametrize("running", [Crowded], indirect=True)
def test_whoever_waits_longest_makes_room_and_whoever_is_being_answered_never_does(running: Running) -> None:
    with contextlib.ExitStack() as opened:

        def connect(source: str) -> socket.socket:
            return opened.enter_context(connected(running.port, source))

        busy = [connect("127.0.0.1") for _ in range(3)]
        for client in busy:
            client.sendall(GET.replace(b"/ ", b"/slow "))
        wait_for(lambda: len(running.server.server_state.tasks) == 3, "three requests", 30)
        refused = connect("127.0.0.1")
        wait_for(lambda: not is_open(refused), "the end of the fourth of an address", 30)
        old, new, newest = (connect(f"127.0.0.{place}") for place in (2, 3, 4))
        wait_for(lambda: not is_open(old), "the end of the one that waits longest", 30)
        for client in (newest, new):
            client.sendall(GET)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        running.go.set()
        for client in busy:
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
