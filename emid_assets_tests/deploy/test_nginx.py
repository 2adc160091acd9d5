"""The shipped nginx configuration in a real nginx, before an HTTP server that stands for the web UI."""

import base64
import contextlib
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from emid_assets_tests.web import DEADLINE_S, free_port

SHIPPED = Path(__file__).parents[2] / "deploy" / "nginx" / "emid-assets.conf"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PASSWORD = "open sesame"
JSON = {"Content_Type": "application/json"}


class Behind(BaseHTTPRequestHandler):
    """What the web UI's place is taken by: it tells the headers that it was sent."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        if self.headers.get("Upgrade") == "websocket":
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            self.wfile.write(b"hello over the socket")
            self.wfile.flush()
            self.rfile.read(1)  # until nginx closes
            self.close_connection = True
            return
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = str(self.headers).encode()
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = answer  # noqa: N815
    do_POST = answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@dataclass(frozen=True)
class Front:
    """A running nginx."""

    port: int
    context: ssl.SSLContext

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def ask(
        self, method: str = "GET", path: str = "/", password: str | None = PASSWORD, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers and body of an answer."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if password is not None:
            sent["Authorization"] = "Basic " + base64.b64encode(f"anna:{password}".encode()).decode()
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=20)
        try:
            connection.request(method, path, body=b"{}" if method == "POST" else None, headers=sent)
            answer = connection.getresponse()
            # To http.client an upgraded connection has no body: what comes is read from the file below it.
            upgraded = answer.status == 101
            body = connection.sock.recv(100) if upgraded else answer.read()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body.decode()
        finally:
            connection.close()


@contextlib.contextmanager
def fronting(upstream: int, folder: Path) -> Iterator[Front]:
    """The shipped configuration before what listens on the port `upstream`; its files are in `folder`."""
    if NGINX is None:
        assert not os.environ.get("CI"), "no nginx: `make services` installs it"
        pytest.skip("needs nginx: apt-get install nginx-light")
    folder.chmod(0o755)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    digest = subprocess.run(
        ["openssl", "passwd", "-6", PASSWORD], check=True, capture_output=True, text=True
    ).stdout.strip()
    users = folder / "users"
    users.write_text(f"anna:{digest}\n")
    port = free_port()
    shipped = SHIPPED.read_text()
    for line, here in {
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "/etc/ssl/certs/emid.example.org.pem;": f"{folder}/cert.pem;",
        "/etc/ssl/private/emid.example.org.key;": f"{folder}/key.pem;",
        "auth_basic_user_file /etc/nginx/emid-assets.users;": f"auth_basic_user_file {users};",
        "http://127.0.0.1:3000;": f"http://127.0.0.1:{upstream};",
    }.items():
        assert shipped.count(line) == 1, line
        shipped = shipped.replace(line, here)
    (folder / "emid-assets.conf").write_text(shipped)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log {folder}/access.log;\n{temporary}"
        f"include {folder}/emid-assets.conf;\n}}\n"
    )
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + DEADLINE_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            log = folder / "error.log"
            assert process.poll() is None, log.read_text() if log.exists() else process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.05)
        yield Front(port, ssl.create_default_context(cafile=str(folder / "cert.pem")))
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    behind = ThreadingHTTPServer(("127.0.0.1", 0), Behind)
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    try:
        with fronting(behind.server_port, tmp_path_factory.mktemp("nginx")) as running:
            yield running
    finally:
        behind.shutdown()
        behind.server_close()


def test_without_or_with_a_wrong_password_nothing_is_shown(front: Front) -> None:
    for password in (None, "", "sesame"):
        status, headers, body = front.ask(password=password)
        assert status == 401
        assert headers["www-authenticate"].startswith("Basic")
        assert "Host:" not in body
    assert front.ask("POST", "/graphql", password=None, **JSON)[0] == 401


def test_with_the_password_the_web_ui_is_reached_and_does_not_learn_the_password(front: Front) -> None:
    status, headers, body = front.ask()
    assert status == 200
    assert f"Host: 127.0.0.1:{front.port}" in body
    assert "Authorization" not in body
    assert headers["x-frame-options"] == "DENY"
    assert headers["strict-transport-security"]
    assert "access-control-allow-origin" not in headers


def test_the_web_ui_itself_may_ask_and_a_page_of_another_site_may_not(front: Front) -> None:
    own = {"Origin": front.origin, "Sec_Fetch_Site": "same-origin", **JSON}
    assert front.ask("POST", "/graphql", **own)[0] == 200
    assert front.ask("POST", "/graphql", Content_Type="application/json; charset=utf-8")[0] == 200  # a script
    for origin in ("https://evil.example", "null", "https://127.0.0.1", f"http://127.0.0.1:{front.port}"):
        assert front.ask("POST", "/graphql", Origin=origin, **JSON)[0] == 403
        assert front.ask("GET", "/", Origin=origin)[0] == 403
    for site in ("cross-site", "same-site", "of a browser to come"):
        assert front.ask("POST", "/graphql", Sec_Fetch_Site=site, **JSON)[0] == 403
        assert front.ask("GET", "/", Sec_Fetch_Site=site)[0] == 403


def test_another_site_may_open_the_web_ui_in_a_tab_and_use_nothing_of_it(front: Front) -> None:
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert front.ask("GET", "/runs", **link)[0] == 200  # a link in a chat
    assert front.ask("GET", "/runs", Sec_Fetch_Site="none")[0] == 200  # a bookmark
    assert front.ask("POST", "/runs", **link, **JSON)[0] == 403
    for changed in (
        {"Sec_Fetch_Dest": "iframe"},
        {"Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},
        {"Sec_Fetch_Mode": "no-cors"},
        {"Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"},
    ):
        assert front.ask("GET", "/runs", **(link | changed))[0] == 403, changed


@pytest.mark.parametrize(
    "path",
    ["/graphql", "/graphql?query=mutation", "/%67raphql", "//graphql", "/./graphql", "/x/..%2Fgraphql"],
)
def test_graphql_is_not_asked_in_an_address_whoever_asks(front: Front, path: str) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
        for headers in ({}, {"Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "none"}, JSON):
            assert front.ask(method, path, **headers)[0] == 403, (method, headers)
    assert front.ask("GET", "/graphqls")[0] == 200


def test_a_browser_that_tells_neither_origin_nor_site_cannot_be_made_to_change_anything(front: Front) -> None:
    assert front.ask("GET", "/runs")[0] == 200
    forms = ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "",
             "text/plain; application/json", "application/jsonp")  # fmt: skip
    for path in ("/graphql?query=mutation", "/report_asset_materialization/fused_pairs"):
        assert front.ask("POST", path)[0] == 403
        for kind in forms:
            assert front.ask("POST", path, Content_Type=kind)[0] == 403, kind
        assert front.ask("POST", path, **JSON)[0] == 200


def test_live_updates_pass_as_a_websocket_and_not_from_another_site(front: Front) -> None:
    upgrade = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    status, headers, body = front.ask(path="/graphql", Origin=front.origin, **upgrade)
    assert (status, headers["upgrade"]) == (101, "websocket")
    assert body == "hello over the socket"
    assert front.ask(path="/graphql", Origin="https://evil.example", **upgrade)[0] == 403
