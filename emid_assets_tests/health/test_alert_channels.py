"""Alerts by file, webhook and mail, each against a real local receiver; no secret leaves with them."""

import html
import json
import os
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from emid_assets.health import alert_channels
from emid_assets.health.alert_channels import (
    BACK_OFF_S,
    DEADLINE_S,
    channels,
    deliver,
    secrets_of,
    write_to_file,
)
from emid_assets.runs.failures import one_line
from emid_assets.settings import Operations, SettingsError, load_operations
from emid_assets_tests.web import free_port

LINE = "music_embeddings [sad] failed: MemoryError: no room (job embed_music, run 1f2e3d4c)"
TOKEN = "T0KEN-9f8e7d"
PASSWORD = "pa:ss/w@rd"


class Webhook:
    """A real HTTP server that remembers what is posted, and answers with the statuses that it is given."""

    def __init__(self) -> None:
        self.posted: list[Any] = []
        self.statuses: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.posted.append((self.path, self.headers["Content-Type"], json.loads(body)))
                self.send_response(outer.statuses.pop(0) if outer.statuses else 200)
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hooks/{TOKEN}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    receiver = Webhook()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


class Mailbox:
    """Keeps the mails of a real SMTP server, and what its users logged in with."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.logins: list[tuple[str, str]] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(
            (
                envelope.mail_from,
                envelope.rcpt_tos,
                message_from_bytes(envelope.content, policy=policy.default),
            )
        )
        return "250 OK"

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> Any:
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=self.logins[-1] == ("emid", PASSWORD))


def start_mail_server(mailbox: Mailbox, **options: Any) -> Controller:
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    return controller


def operations(**values: str) -> Operations:
    return load_operations({f"EMID_{name.upper()}": value for name, value in values.items()})


def send(settings: Operations, lake: Path) -> tuple[dict[str, str], list[float]]:
    """What could not be delivered, and the waits between the attempts."""
    waits: list[float] = []
    failed = deliver(LINE, channels(settings, lake), secrets_of(settings), sleep=waits.append)
    return failed, waits


def test_without_any_setting_a_line_with_the_time_goes_to_the_lakes_file(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        assert send(operations(), tmp_path) == ({}, [])
        assert send(operations(), tmp_path) == ({}, [])
    finally:
        os.umask(old)
    lines = (tmp_path / "alerts.log").read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [LINE, LINE]
    assert lines[0].partition(" ")[0].endswith("Z")
    assert stat.S_IMODE((tmp_path / "alerts.log").stat().st_mode) == 0o640


def test_a_file_that_is_full_makes_way_and_one_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_channels, "MOST_FILE_BYTES", 100)
    file = tmp_path / "alerts.log"
    for number in range(30):
        write_to_file(file, f"line {number:02} " + "x" * 20)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["alerts.log", "alerts.log.1"]
    assert all((tmp_path / name).stat().st_size < 200 for name in names)
    kept = (tmp_path / "alerts.log.1").read_text() + file.read_text()
    assert [line.split()[2] for line in kept.splitlines()] == ["26", "27", "28", "29"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_webhook_gets_the_line_as_json(webhook: Webhook, tmp_path: Path) -> None:
    assert send(operations(alert_webhook=webhook.url), tmp_path) == ({}, [])
    text = f"```\n{LINE}\n```"
    assert webhook.posted == [(f"/hooks/{TOKEN}", "application/json", {"text": text})]


@pytest.mark.parametrize(
    "name",
    [
        "<!channel> <https://evil.example|free> <@U123> &lt;",
        "[free](https://evil.example) ![x](https://evil.example/x.png) **b** @all #general",
        "```\n@all ``` ` `` &amp;",
    ],
)
def test_a_chat_system_sees_no_markup_in_a_files_name(webhook: Webhook, tmp_path: Path, name: str) -> None:
    line = one_line(f"media_inventory failed: images/{name}.png cannot be read")
    deliver(line, channels(operations(alert_webhook=webhook.url), tmp_path))
    ((_, _, posted),) = webhook.posted
    fence, inside, end = posted["text"].split("\n")
    assert fence == end == "```"
    assert not set("`<>") & set(inside)
    assert html.unescape(inside) == line.replace("`", "'")


def test_a_channel_that_hangs_delays_no_other_and_no_tick(tmp_path: Path) -> None:
    hangs, delivered = threading.Event(), []
    to = {"hangs": lambda line: hangs.wait(), **channels(operations(), tmp_path)}
    failed = deliver(LINE, to, on_delivered=delivered.append, within_s=2.0)
    hangs.set()
    assert failed == {"hangs": "it took longer than 2 s"}
    assert delivered == ["file"]
    assert LINE in (tmp_path / "alerts.log").read_text()


def test_a_mail_server_with_eight_silent_addresses_takes_no_longer_than_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    resolve = socket.getaddrinfo

    def eight(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host != "mail.example.org":
            return resolve(host, port, *rest, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in range(1, 9)]

    class Silent(socket.socket):
        def connect(self, address: Any) -> None:
            tried.append(address[0])
            if not end.wait(self.gettimeout()):
                raise TimeoutError

    end = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", eight)
    monkeypatch.setattr(socket, "socket", Silent)
    settings = operations(alert_smtp="smtp://mail.example.org", alert_mail_to="ops@example.org")
    failed = deliver(LINE, channels(settings, tmp_path), within_s=1.0)
    reached = len(tried)
    end.set()
    assert failed == {"mail": "it took longer than 1 s"}
    assert reached < 8


def test_the_alerts_of_a_tick_fit_into_the_time_that_dagster_gives_it() -> None:
    from dagster._core.definitions.run_status_sensor_definition import _get_run_status_sensor_process_limit
    from dagster._grpc.client import DEFAULT_SENSOR_GRPC_TIMEOUT

    assert _get_run_status_sensor_process_limit() * DEADLINE_S < 0.8 * DEFAULT_SENSOR_GRPC_TIMEOUT


def test_a_webhook_that_fails_twice_is_tried_three_times(webhook: Webhook, tmp_path: Path) -> None:
    webhook.statuses = [500, 503]
    failed, waits = send(operations(alert_webhook=webhook.url), tmp_path)
    assert not failed
    assert len(webhook.posted) == 3
    assert waits == list(BACK_OFF_S)
    assert waits == sorted(waits)


@pytest.mark.parametrize("status", [500, 302])
def test_a_webhook_that_never_accepts_is_given_up_without_its_token_being_told(
    webhook: Webhook, tmp_path: Path, status: int
) -> None:
    webhook.statuses = [status] * 9
    failed, _ = send(operations(alert_webhook=webhook.url), tmp_path)
    assert list(failed) == ["webhook"]
    assert str(status) in failed["webhook"]
    assert TOKEN not in failed["webhook"]
    assert len(webhook.posted) == 3
    assert LINE in (tmp_path / "alerts.log").read_text()


def test_a_server_that_is_not_there_is_no_exception(tmp_path: Path) -> None:
    settings = operations(
        alert_webhook=f"http://127.0.0.1:{free_port()}/{TOKEN}",
        alert_smtp=f"smtp://emid:{TOKEN}@127.0.0.1:{free_port()}",
        alert_mail_to="ops@example.org",
        alert_file=str(tmp_path / "no such folder" / "alerts.log"),
    )
    failed, waits = send(settings, tmp_path)
    assert sorted(failed) == ["file", "mail", "webhook"]
    assert len(waits) == 6
    assert TOKEN not in json.dumps(failed)


def test_a_mail_says_the_line_in_its_subject_and_text(tmp_path: Path) -> None:
    mailbox = Mailbox()
    server = start_mail_server(mailbox)
    try:
        settings = operations(
            alert_smtp=f"smtp://127.0.0.1:{server.port}", alert_mail_to="a@example.org, b@example.org"
        )
        assert send(settings, tmp_path) == ({}, [])
    finally:
        server.stop()
    ((sender, receivers, message),) = mailbox.mails
    assert sender == "emid-assets@localhost"
    assert receivers == ["a@example.org", "b@example.org"]
    assert message["Subject"] == LINE
    assert message.get_content().strip() == LINE


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def tls_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    return context


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_password_goes_over_tls_to_a_server_whose_certificate_holds(
    scheme: str, tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = Mailbox()
    login = {"authenticator": mailbox.authenticate, "auth_required": True}
    if scheme == "smtps":
        server = start_mail_server(
            mailbox, ssl_context=tls_context(certificate), auth_require_tls=False, **login
        )
    else:
        server = start_mail_server(mailbox, tls_context=tls_context(certificate), **login)
    settings = operations(
        alert_smtp=f"{scheme}://emid:pa%3Ass%2Fw%40rd@127.0.0.1:{server.port}",
        alert_mail_to="ops@example.org",
    )
    try:
        failed, _ = send(settings, tmp_path)
        assert "certificate" in failed["mail"].lower()
        assert not mailbox.logins
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        assert send(settings, tmp_path)[0] == {}
    finally:
        server.stop()
    assert mailbox.logins == [("emid", PASSWORD)]
    assert len(mailbox.mails) == 1


def test_a_password_is_not_sent_in_the_clear_to_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = Mailbox()
    server = start_mail_server(mailbox, authenticator=mailbox.authenticate, auth_require_tls=False)
    monkeypatch.setattr("emid_assets.health.alert_channels._is_this_machine", lambda host: False)
    settings = operations(
        alert_smtp=f"smtp://emid:{TOKEN}@127.0.0.1:{server.port}", alert_mail_to="ops@example.org"
    )
    try:
        failed, _ = send(settings, tmp_path)
    finally:
        server.stop()
    assert "no TLS" in failed["mail"]
    assert not mailbox.logins


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alert_webhook", f"ftp://example.org/{TOKEN}"),
        ("alert_webhook", f"https://example.org:{TOKEN}/"),
        ("alert_smtp", f"mail.example.org/{TOKEN}"),
        ("alert_mail_to", f"{TOKEN}\r\nBcc: everyone@example.org"),
        ("rebuild_time_zone", "Mars/Olympus"),
        ("rebuild_cron", "every night"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not_told(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"EMID_{name.upper()}") as raised:
        operations(**{name: value})
    assert value not in str(raised.value)
    assert TOKEN not in str(raised.value)


def test_secrets_are_hidden_wherever_the_settings_are_shown() -> None:
    settings = operations(
        alert_webhook=f"https://hooks.example.org/{TOKEN}",
        alert_smtp=f"smtps://emid:{TOKEN}@mail.example.org",
    )
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert TOKEN not in shown
    assert TOKEN in secrets_of(settings)


def test_a_line_stays_one_line_of_printable_text() -> None:
    text = "images/a\nb\r\x1b[2J\u202etxt.jpg " + "x" * 2000
    line = one_line(text)
    assert line.isprintable()
    assert line.startswith("images/a b [2J txt.jpg x")
    assert len(line) == 500
