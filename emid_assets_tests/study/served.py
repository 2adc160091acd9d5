"""A running `emid study serve`, as tests of the server and of the page start and kill it."""

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emid_assets_tests.conftest import clean_environment
from emid_assets_tests.web import free_port

if TYPE_CHECKING:
    from emid_assets_tests.study.conftest import Study

DEADLINE_S = 120


@dataclass
class Server:
    """A running `emid study serve`."""

    study: "Study"
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: Any = None
    link: str = ""

    def start(self) -> "Server":
        command = [
            sys.executable, "-m", "emid_assets", "study", "serve", "--port", str(self.port),
            "--media", str(self.study.media), "--lake", str(self.study.lake), *self.options,
        ]  # fmt: skip
        environment = clean_environment() | {"PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for line in self.process.stdout:
            if found := re.search(r"http://\S+", line):
                self.link = found[0]
                return self
        raise AssertionError("the server ended before it told its link")

    def kill(self) -> None:
        """Without warning, as a power cut would; nothing happens to one that has ended."""
        self.process.kill()
        self.process.wait(DEADLINE_S)
        self.process.stdout.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return int(self.process.wait(DEADLINE_S))

    @property
    def token(self) -> str:
        return self.link.partition("#token=")[2]

    def post(self, answer: object, token: str | None = None, body: bytes | None = None) -> tuple[int, str]:
        """Status and message."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/answers",
            json.dumps(answer).encode() if body is None else body,
            {"Authorization": f"Bearer {self.token if token is None else token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, json.load(reply)["message"]
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["message"]
