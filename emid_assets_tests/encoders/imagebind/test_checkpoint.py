import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from emid_assets.encoders.imagebind import checkpoint
from emid_assets.encoders.imagebind.checkpoint import FetchError, fetch, file_problems, find_checkpoint
from emid_assets.encoders.interface import EncoderUnavailableError

CONTENT = np.random.default_rng(0).bytes(3 << 20)
SUM = hashlib.sha256(CONTENT).hexdigest()

Answer = Callable[[BaseHTTPRequestHandler, int], None]


class Server:
    """A local server; each request gets the next of `answers`, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [whole]
        self.ranges: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                server.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
                answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
                self.close_connection = True
                answer(self, start)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/{checkpoint.NAME}"
        # A client that hangs up on a wrong answer is what the tests are about.
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, object], body: bytes) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, str(value))
    handler.end_headers()
    handler.wfile.write(body)


def whole(handler: BaseHTTPRequestHandler, start: int) -> None:
    part(handler, start, CONTENT[start:])


def part(handler: BaseHTTPRequestHandler, start: int, body: bytes, content: bytes = CONTENT) -> None:
    headers: dict[str, object] = {"Content-Length": len(content) - start}
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    send(handler, 206 if start else 200, headers, body)


def breaks_off_after(count: int) -> Answer:
    return lambda handler, start: part(handler, start, CONTENT[start : start + count])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def get(server: Server, target: Path, **changes: object) -> Path:
    arguments = {"url": server.url, "size": len(CONTENT), "sha256": SUM, "pause": lambda seconds: None}
    return fetch(target, **(arguments | changes))  # type: ignore[arg-type]


def test_a_download_arrives_whole_and_its_sum_is_recorded(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = get(
        server, tmp_path / "new" / "a.pth", on_bytes=lambda there, total: seen.append((there, total))
    )
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert {total for _, total in seen} == {len(CONTENT)}
    record = json.loads((target.parent / "a.pth.sha256.json").read_text())
    assert record == {"sha256": SUM, "size_bytes": len(CONTENT), "modified_ns": target.stat().st_mtime_ns}
    assert sorted(path.name for path in target.parent.iterdir()) == ["a.pth", "a.pth.sha256.json"]


def test_a_checkpoint_that_is_there_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path / "a.pth")
    get(server, tmp_path / "a.pth")
    assert len(server.ranges) == 1


def test_a_connection_that_breaks_off_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.answers = [breaks_off_after(1_000_000), breaks_off_after(700_000), whole]
    assert get(server, tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", "bytes=1700000-"]


def test_a_later_run_goes_on_from_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    server.answers = [breaks_off_after(2_000_000), breaks_off_after(0)]
    with pytest.raises(FetchError, match=r"2000000 of 3145728 bytes are downloaded and kept: run again"):
        get(server, tmp_path / "a.pth", attempts=3)
    assert not (tmp_path / "a.pth").exists()
    server.answers, server.ranges = [whole], []
    assert get(server, tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.ranges == ["bytes=2000000-"]


def test_waiting_doubles_while_nothing_comes(server: Server, tmp_path: Path) -> None:
    server.answers = [breaks_off_after(0)]
    pauses: list[float] = []
    with pytest.raises(FetchError):
        get(server, tmp_path / "a.pth", attempts=4, pause=pauses.append)
    assert pauses == [1, 2, 4]


def test_a_server_without_ranges_is_downloaded_from_the_beginning(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.pth.partial").write_bytes(b"x" * 1000)
    server.answers = [lambda handler, _: part(handler, 0, CONTENT)]
    assert get(server, tmp_path / "a.pth").read_bytes() == CONTENT


def test_a_server_that_lies_about_the_length_is_refused_before_the_download(
    server: Server, tmp_path: Path
) -> None:
    server.answers = [lambda handler, _: send(handler, 200, {"Content-Length": 17}, b"x" * 17)]
    with pytest.raises(FetchError, match=r"has 17 bytes, ImageBind's checkpoint 3145728: it is another file"):
        get(server, tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


def test_a_server_that_sends_more_than_it_should_is_cut_and_checked(server: Server, tmp_path: Path) -> None:
    server.answers = [lambda handler, _: send(handler, 200, {}, CONTENT + b"and more")]
    assert get(server, tmp_path / "a.pth").read_bytes() == CONTENT


def test_a_server_that_answers_with_another_range_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.pth.partial").write_bytes(CONTENT[:1000])
    server.answers = [lambda handler, _: part(handler, 5, CONTENT[5:])]
    with pytest.raises(FetchError, match=r"asked for bytes from 1000, the server answers 'bytes 5-"):
        get(server, tmp_path / "a.pth")


@pytest.mark.parametrize("wrong_beginning", [False, True])
def test_wrong_bytes_are_deleted_and_never_take_the_checkpoints_name(
    server: Server, tmp_path: Path, wrong_beginning: bool
) -> None:
    wrong = bytes(len(CONTENT))
    if wrong_beginning:
        (tmp_path / "a.pth.partial").write_bytes(b"stale")
    else:
        server.answers = [lambda handler, start: part(handler, start, wrong[start:], wrong)]
    with pytest.raises(FetchError, match=rf"sha256 [0-9a-f]{{64}}, expected {SUM}.*deleted"):
        get(server, tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_of_the_server_is_final(server: Server, tmp_path: Path, status: int) -> None:
    server.answers = [lambda handler, _: send(handler, status, {"Content-Length": 0}, b"")]
    with pytest.raises(FetchError, match=f"the server says {status}"):
        get(server, tmp_path / "a.pth")
    assert len(server.ranges) == 1


def test_an_error_of_the_server_that_may_pass_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.answers = [lambda handler, _: send(handler, 503, {"Content-Length": 0}, b""), whole]
    assert get(server, tmp_path / "a.pth").read_bytes() == CONTENT


def test_too_little_room_is_said_before_anything_is_downloaded(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"GB free, 1000000000\.00 GB are needed"):
        get(server, tmp_path / "a.pth", size=10**18)
    assert not server.ranges


def test_the_proxy_of_the_environment_is_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.rsplit("/", 1)[0])
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    target = get(server, tmp_path / "a.pth", url="http://weights.invalid/imagebind_huge.pth")
    assert target.read_bytes() == CONTENT


def test_places_are_looked_at_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(checkpoint.ENVIRONMENT, raising=False)
    with pytest.raises(
        EncoderUnavailableError, match=r"imagebind fetch.*4\.8 GB.*https://.*CC-BY-NC-SA 4\.0"
    ):
        find_checkpoint()

    def make(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    local = make(tmp_path / ".checkpoints" / checkpoint.NAME)
    assert find_checkpoint().absolute() == local
    hub = make(Path(torch.hub.get_dir()) / "checkpoints" / checkpoint.NAME)
    assert find_checkpoint() == hub
    by_environment = make(tmp_path / "env.pth")
    monkeypatch.setenv(checkpoint.ENVIRONMENT, str(by_environment))
    assert find_checkpoint() == by_environment
    by_setting = make(tmp_path / "setting.pth")
    assert find_checkpoint(by_setting) == by_setting


def test_a_given_path_that_does_not_exist_is_an_error_and_no_other_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EncoderUnavailableError, match=r"the setting says .*gone\.pth: no such file"):
        find_checkpoint(tmp_path / "gone.pth")
    monkeypatch.setenv(checkpoint.ENVIRONMENT, str(tmp_path / "gone.pth"))
    with pytest.raises(EncoderUnavailableError, match=rf"{checkpoint.ENVIRONMENT} says"):
        find_checkpoint()


@pytest.mark.parametrize("torch_home", [True, False])
def test_the_hubs_folder_is_torchs_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, torch_home: bool
) -> None:
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("TORCH_HOME" if torch_home else "XDG_CACHE_HOME", str(tmp_path))
    assert checkpoint.hub_folder() == Path(torch.hub.get_dir()) / "checkpoints"


def test_a_recorded_sum_is_used_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"one")
    assert checkpoint.checkpoint_sha256(path) == hashlib.sha256(b"one").hexdigest()
    record = tmp_path / "a.pth.sha256.json"
    record.write_text(record.read_text().replace(hashlib.sha256(b"one").hexdigest(), "from the record"))
    assert checkpoint.checkpoint_sha256(path) == "from the record"
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert checkpoint.checkpoint_sha256(path) == hashlib.sha256(b"two").hexdigest()
    record.write_text("{")
    assert checkpoint.checkpoint_sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    facts = {"size": len(CONTENT), "sha256": SUM}
    assert "no such file" in file_problems(path, **facts)[0]  # type: ignore[arg-type]
    path.write_bytes(CONTENT)
    assert file_problems(path, **facts) == []  # type: ignore[arg-type]
    path.write_bytes(CONTENT[:-1])
    assert "truncated" in file_problems(path, **facts)[0]  # type: ignore[arg-type]
    path.write_bytes(b"<!DOCTYPE html><p>404")
    assert "web page" in file_problems(path, **facts)[1]  # type: ignore[arg-type]
    path.write_bytes(CONTENT[:-1] + b"\0")
    assert "some of its bytes are wrong" in file_problems(path, **facts)[0]  # type: ignore[arg-type]
    path.write_bytes(CONTENT + b"\0")
    assert "another file" in file_problems(path, **facts)[0]  # type: ignore[arg-type]
