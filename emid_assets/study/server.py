"""The server of the listening study: serves the page, and stores answers.

Belongs here: who may send, how much and how often. What an answer must be is `answers`, how long and how
many connections may be open is `connections`.

    GET  /          the page; GET /media/NAME its media
    POST /answers   one answer as JSON, with `Authorization: Bearer TOKEN`

    201 stored · 200 already stored · 400 not JSON · 401 wrong token · 409 already answered differently ·
    413 too large · 422 not of the design · 429 too many · 503 the store is busy: send it again
"""

import asyncio
import hmac
import json
import logging
import math
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import filelock
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emid_assets.store.files import make_folder
from emid_assets.study.answers import AnswerError, AnswerStore, Outcome, decode_answer
from emid_assets.study.design import Design, StudyError

MOST_BYTES = 4096
"""Of one answer; a real one has about 400."""
WINDOW_S = 60.0
MOST_WAITING = 1000
"""Answers that wait for the store, at most."""
TOKEN_FILE = "token"
_log = logging.getLogger(__name__)
_STATUS: dict[Outcome, int] = {"stored": 201, "repeated": 200, "conflict": 409, "full": 429}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def token_of(study: Path) -> str:
    """The study's token: created once, in a file that only its owner can read, so that links stay valid."""
    file = study / TOKEN_FILE
    make_folder(study)
    with suppress(FileExistsError):
        file.touch(mode=0o600, exist_ok=False)
        file.write_text(secrets.token_urlsafe(18) + "\n", encoding="ascii")
    return file.read_text(encoding="ascii").strip()


class RateLimit:
    """At most `most` answers of one address in a minute."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._window = -math.inf
        self._counts: Counter[str] = Counter()

    def allows(self, address: str) -> bool:
        """Whether one more of this address is within the limit; it is counted."""
        if self._clock() - self._window >= WINDOW_S:
            self._window = self._clock()
            self._counts.clear()
        self._counts[address] += 1
        return self._counts[address] <= self.most


class _Writer:
    """Stores waiting answers together, one transaction after the other."""

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self._waiting: asyncio.Queue[tuple[dict[str, Any], asyncio.Future[Outcome]]] = asyncio.Queue(
            MOST_WAITING
        )

    async def add(self, row: dict[str, Any]) -> Outcome:
        """What became of an answer, once it is on the disk.

        Raises:
            asyncio.QueueFull, duckdb.Error, filelock.Timeout: it is not stored; it may be sent again.
        """
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((row, done))
        return await done

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                outcomes = await run_in_threadpool(self._store.add, [row for row, _ in batch])
            except (duckdb.Error, filelock.Timeout, OSError) as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
            else:
                for (_, done), outcome in zip(batch, outcomes, strict=True):
                    if not done.done():
                        done.set_result(outcome)


def study_app(
    page: Path, designs: Mapping[str, Design], store: AnswerStore, token: str, answers_a_minute: int
) -> ASGIApp:
    """The ASGI application.

    Args:
        page: folder of `index.html` and its media.
        designs: by hash, every one whose answers are accepted.
        store: where they go.
        token: whoever has it may send answers.
        answers_a_minute: of one address, at most.
    """
    writer = _Writer(store)
    limit = RateLimit(answers_a_minute)

    async def take_answer(request: Request) -> Response:
        if not limit.allows(request.client.host if request.client else ""):
            return _said(429, "too many answers from this address; wait a minute", {"Retry-After": "60"})
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return _said(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})
        body = b""
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    return _said(413, f"an answer has at most {MOST_BYTES} bytes", {"Connection": "close"})
        except ClientDisconnect:
            return _said(400, "the answer did not arrive whole")
        try:
            row = decode_answer(json.loads(body), designs)
        except AnswerError as error:
            return _said(422, str(error))
        except StudyError as error:
            _log.error("%s", error)
            return _said(503, "the design cannot be read; send the answer again", {"Retry-After": "60"})
        except (ValueError, RecursionError):
            return _said(400, "an answer must be JSON")
        try:
            outcome = await writer.add(row)
        except (asyncio.QueueFull, duckdb.Error, filelock.Timeout, OSError):
            return _said(503, "the store is busy; send the answer again", {"Retry-After": "2"})
        return _said(_STATUS[outcome], outcome)

    @asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(writer.run())
        yield
        task.cancel()

    app = Starlette(
        routes=[
            Route("/answers", take_answer, methods=["POST"]),
            Mount("/", StaticFiles(directory=page, html=True)),
        ],
        lifespan=running,
    )
    return _with_headers(app)


def _with_headers(app: ASGIApp) -> ASGIApp:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await app(scope, receive, send_with_headers)

    return wrapped


def _said(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"message": message}, status, headers=dict(headers or {}))
