"""The connections of the study's server: how long each may be silent, and how many may be open.

Belongs here: what keeps silent, slow and countless connections from closing the server for others, since
uvicorn has no time limit for a request. What a request must be is `server`.
"""

import asyncio
import math
import time

from uvicorn.protocols.http.h11_impl import H11Protocol


class LimitedConnection(H11Protocol):
    """One connection of a uvicorn server, which is closed where it stands in the way of others.

    A request has `seconds` to arrive whole, headers and body, from the opening of the connection or from
    the end of the answer before it. An answer of which nothing is read for as long is given up. Where there
    are too many connections, the one that has waited longest for a request makes room.

    Attributes:
        seconds: that a request has to arrive.
        most_of_one: connections of one address, at most.
        most: connections in all, at most.
    """

    seconds = 30.0
    most_of_one = 100
    most = 500

    _timer: asyncio.TimerHandle | None = None
    _unsent: float = math.inf
    _waits_since: float | None = None
    """When it began to wait for a request; None while it has a whole one that is not answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for it, and wait for its first request."""
        super().connection_made(transport)
        self._look()
        self._make_room(self.most_of_one, self._address)
        self._make_room(self.most, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop its clock."""
        super().connection_lost(exc)
        self._stop_clock()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request; it does not extend the time that the request has."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it has arrived already."""
        self._waits_since = None
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """Give the client time to read."""
        super().pause_writing()
        self._start_clock()

    def resume_writing(self) -> None:
        """Continue an answer that is read."""
        super().resume_writing()
        if self._waits_since is None:
            self._stop_clock()

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _look(self) -> None:
        """Start the clock where it now waits for a request, and stop it where it has one."""
        if self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete:
            self._waits_since = None
            if not self.flow.write_paused:
                self._stop_clock()
        elif self._waits_since is None:
            self._waits_since = time.monotonic()
            self._start_clock()

    def _make_room(self, most: int, address: str | None) -> None:
        """Close one that waits, of an address or of all, where there are more than `most`."""
        crowd = [
            one
            for one in self.connections
            if isinstance(one, LimitedConnection) and address in (None, one._address)
        ]
        if len(crowd) > most:
            waiting = [(one._unsent_bytes() > 0, one._waits_since, one) for one in crowd if one._waits_since]
            min(waiting, key=lambda each: each[:2])[2]._close()

    def _unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    def _start_clock(self) -> None:
        self._stop_clock()
        self._unsent = math.inf
        self._timer = self.loop.call_later(self.seconds, self._is_late)

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_late(self) -> None:
        unsent = self._unsent_bytes()
        if not 0 < unsent < self._unsent:
            self._close()
            return
        self._start_clock()  # somebody reads, slowly
        self._unsent = unsent

    def _close(self) -> None:
        """At once, whatever is unsent."""
        self._stop_clock()
        self.connections.discard(self)
        self.transport.abort()
