"""Lines about long work: one every 30 s, with the newest that is known, by a clock of the test's own."""

import threading

import pytest

from emid_assets.runs import progress_lines
from emid_assets.runs.progress_lines import ProgressLines, rate_text


class Work:
    def __init__(self) -> None:
        self.now = 1000.0
        self.said: list[str] = []
        self.lines = ProgressLines(self.said.append, lambda: self.now)

    def passes(self, seconds: int) -> list[str]:
        """What is said in so many seconds."""
        before = len(self.said)
        for _ in range(seconds):
            self.now += 1
            self.lines.look()
        return self.said[before:]


@pytest.fixture
def work() -> Work:
    return Work()


def test_work_that_tells_nothing_is_heard_of_every_30_seconds(work: Work) -> None:
    work.lines.begin("align", 13)
    work.lines.at("calm")
    assert work.passes(29) == []
    assert work.passes(61) == [
        f"align calm: still running, {seconds} s, 0 of 13 done" for seconds in (30, 60, 90)
    ]


def test_the_newest_message_is_said_once_and_an_old_one_never_again(work: Work) -> None:
    work.lines.begin("inventory")
    for done in range(1, 25):
        work.lines.tell(rate_text("files read", done, 938, float(done)))
        work.passes(1)
    assert work.passes(6) == ["inventory: files read: 24 of 938, 1.0 per second, 914 s left"]
    assert work.passes(30) == ["inventory: still running, 60 s"]


def test_short_parts_are_counted_and_named(work: Work) -> None:
    work.lines.begin("embed_music", 13)
    said = []
    for part in ("amusing", "annoying", "anxious"):
        work.lines.at(part)
        said += work.passes(12)
        work.lines.advance()
    assert said == ["embed_music anxious: still running, 30 s, 2 of 13 done"]


def test_the_end_is_said_at_once_and_then_nothing_more(work: Work) -> None:
    work.lines.begin("release")
    work.passes(20)
    work.lines.end("release: 1/1 in 20 s")
    assert work.said == ["release: 1/1 in 20 s"]
    assert work.passes(100) == []
    work.lines.begin("study")
    assert work.passes(30) == ["study: still running, 30 s"]


def test_a_rate_is_told_before_anything_is_done_too() -> None:
    assert rate_text("rows", 0, 10, 5.0) == "rows: 0 of 10, 0.0 per second"


def test_the_thread_says_what_is_due_and_ends_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_lines, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress_lines, "_LOOK_S", 0.001)
    heard = threading.Event()
    with ProgressLines(lambda line: heard.set()) as lines:
        lines.begin("align")
        assert heard.wait(30)
        (thread,) = [one for one in threading.enumerate() if one.name == "progress lines"]
    thread.join(30)
    assert not thread.is_alive()
