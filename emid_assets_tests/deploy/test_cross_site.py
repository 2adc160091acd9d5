"""A real web UI behind the shipped nginx, and pages of other origins in a browser that has the password."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from emid_assets_tests.conftest import clean_environment
from emid_assets_tests.deploy.test_nginx import PASSWORD, Front, fronting
from emid_assets_tests.web import WebUI, free_port, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.server]


@dataclass
class Site:
    """The web UI behind nginx, and runs in it that somebody may want to delete."""

    front: Front
    instance: dg.DagsterInstance
    log: Path

    def new_run(self) -> str:
        @dg.job
        def nothing() -> None:
            pass

        return self.instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.SUCCESS).run_id

    def has(self, run: str) -> bool:
        return self.instance.get_run_by_id(run) is not None

    def asked_of_graphql(self) -> list[str]:
        """Method, address and answer of every such request, from nginx's log."""
        return re.findall(r'"([A-Z]+ /graphql.*? HTTP/[0-9.]+" [0-9]+)', self.log.read_text())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("nginx")
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "dagster_webserver", "--empty-workspace", "-p", str(port)], cwd=home,
        env=clean_environment() | {"DAGSTER_HOME": str(home)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            wait_for(lambda: server.poll() is not None or WebUI(port).is_up(), "the web UI")
            assert server.poll() is None
            with fronting(port, folder) as front:
                yield Site(front, instance, folder / "access.log")
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def foreign() -> Iterator[int]:
    """The port of a server of empty pages: another origin at `127.0.0.1`, another site at `localhost`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!DOCTYPE html><title>foreign</title><body>")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def context(browser: Any, site: Site) -> Iterator[Any]:
    """A browser in which somebody has logged in."""
    context = browser.new_context(
        ignore_https_errors=True, http_credentials={"username": "anna", "password": PASSWORD}
    )
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(f"{site.front.origin}/runs")
    page.close()
    yield context
    context.close()


DELETE = 'mutation { deletePipelineRun(runId: "%s") { __typename } }'
ATTACKS = {
    "img": "const it = new Image(); it.onerror = it.onload = done; it.src = url;",
    "script": "make('script', { src: url });",
    "style": "make('link', { rel: 'stylesheet', href: url });",
    "frame": "make('iframe', { src: url });",
    "media": "make('video', { src: url });",
    "fetch": "fetch(url, { mode: 'no-cors', credentials: 'include' }).finally(done);",
    "fetch with a body": "fetch(url, { method: 'POST', mode: 'no-cors', credentials: 'include', body: json })"
    ".finally(done);",
    "fetch of JSON": "fetch(bare, { method: 'POST', credentials: 'include', body: json, "
    "headers: { 'Content-Type': 'application/json' } }).catch(() => {}).finally(done);",
    "beacon": "navigator.sendBeacon(url, json); setTimeout(done, 500);",
    "form": "form('POST', url, 'frame');",
    "form in a tab": "form('POST', url, '_blank');",
    "link": "window.open(url); setTimeout(done, 500);",
    "form by GET in a tab": "form('GET', bare, '_blank');",
    "socket": "const it = new WebSocket(bare.replace('https', 'wss'), 'graphql-ws');"
    " it.onclose = done; it.onopen = () => { it.send(JSON.stringify({ type: 'connection_init' }));"
    " it.send(JSON.stringify({ type: 'start', id: '1', payload: { query } })); setTimeout(done, 1000); };",
}
"""How a page can make a browser send a request; each calls `done` once it has been answered."""

TOOLS = """([bare, query, attack]) => new Promise((done) => {
  const url = bare + "?query=" + encodeURIComponent(query), json = JSON.stringify({ query });
  const make = (name, given) => {
    const it = Object.assign(document.createElement(name), given);
    it.onload = it.onerror = done;
    document.body.append(it);
  };
  const form = (method, action, target) => {
    const frame = Object.assign(document.createElement("iframe"), { name: "frame" });
    const it = Object.assign(document.createElement("form"), { method, action, target });
    it.append(Object.assign(document.createElement("input"), { name: "query", value: query }));
    document.body.append(frame, it);
    it.submit();
    setTimeout(done, 1000);
  };
  new Function("url", "bare", "query", "json", "done", "make", "form", attack)(
    url, bare, query, json, done, make, form);
})"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_page_of_another_origin_can_delete_a_run_with_the_saved_password(
    site: Site, foreign: int, context: Any, host: str
) -> None:
    runs = {name: site.new_run() for name in ATTACKS}
    for name, attack in ATTACKS.items():
        page = context.new_page()
        page.goto(f"http://{host}:{foreign}/")
        before = len(site.asked_of_graphql())
        page.evaluate(TOOLS, [f"{site.front.origin}/graphql", DELETE % runs[name], attack])
        wait_for(lambda: len(site.asked_of_graphql()) > before, f"the request of {name}", 30)  # noqa: B023
        assert all(asked.endswith(" 403") for asked in site.asked_of_graphql()[before:]), name
        page.close()
    assert [name for name, run in runs.items() if not site.has(run)] == []


def test_the_web_ui_itself_works_behind_it_and_may_delete_a_run(site: Site, context: Any) -> None:
    run = site.new_run()
    page = context.new_page()
    wrong: list[tuple[int, str]] = []
    sockets: list[str] = []
    page.on("response", lambda reply: wrong.append((reply.status, reply.url)) if reply.status > 399 else None)
    page.on("websocket", lambda opened: opened.on("framereceived", lambda _: sockets.append(opened.url)))
    page.goto(f"{site.front.origin}/runs")
    page.get_by_text(run[:8]).first.wait_for()
    wait_for(lambda: page.wait_for_timeout(50) or sockets, "a message over the websocket", 30)
    deleted = page.evaluate(
        """(query) => fetch("/graphql", { method: "POST", body: JSON.stringify({ query }),
        headers: { "Content-Type": "application/json" } }).then((reply) => reply.json())""",
        DELETE % run,
    )
    assert deleted["data"]["deletePipelineRun"]["__typename"] == "DeletePipelineRunSuccess"
    assert not site.has(run)
    assert wrong == []
    page.close()


def test_a_link_of_another_site_opens_the_web_ui(site: Site, foreign: int, context: Any) -> None:
    run = site.new_run()
    page = context.new_page()
    page.goto(f"http://localhost:{foreign}/")
    page.evaluate(f"location.href = {json.dumps(site.front.origin + '/runs')}")
    page.get_by_text(run[:8]).first.wait_for()
    page.close()
