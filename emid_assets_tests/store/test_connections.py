"""The kept connections: used again, never by two at once, by another process, or after a failure."""

import os
import threading
from contextlib import suppress

from emid_assets.store.connections import kept_connection


def test_a_connection_is_used_again_after_it_and_by_one_user_at_a_time() -> None:
    with kept_connection() as first, kept_connection() as second:
        assert second is not first
    others = []

    def use() -> None:
        with kept_connection() as connection:
            others.append(connection)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    with kept_connection() as again, kept_connection() as another:
        assert {id(again), id(another)} == {id(first), id(second)}
        assert others[0] not in (again, another)


def test_a_connection_that_failed_is_closed_and_not_used_again() -> None:
    with suppress(ZeroDivisionError), kept_connection() as failed:
        failed.execute("CREATE TABLE left_over AS SELECT 1")
        raise ZeroDivisionError
    with kept_connection() as connection:
        assert connection is not failed
        assert connection.execute("SHOW TABLES").fetchall() == []


def test_a_forked_process_makes_its_own() -> None:
    with kept_connection() as here:
        pass
    child = os.fork()
    if not child:
        with kept_connection() as connection:
            os._exit(0 if connection is not here else 1)
    assert os.waitpid(child, 0)[1] == 0
