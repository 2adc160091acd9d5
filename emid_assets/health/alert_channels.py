"""Telling people: one line to a file, a webhook and a mail server, tried three times, without ever raising.

Belongs here: how a line leaves the house, and that no secret leaves with it. What the line says is
`defs.alerts`'s.
"""

import contextlib
import ipaddress
import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from emid_assets.runs.failures import one_line
from emid_assets.settings import Operations
from emid_assets.store.files import make_folder
from emid_assets.store.layout import ALERTS_FILE

ATTEMPTS = 3
BACK_OFF_S = (0.5, 1.5)
"""Waits between the attempts: five alerts to a dead server must fit into a sensor's minute."""

TIMEOUT_S = 3.0

Channel = Callable[[str], None]
"""Sends a line, or raises."""


def channels(operations: Operations, lake: Path) -> dict[str, Channel]:
    """The channels that are set up, by name; the file always is."""

    def to_the_lake(line: str) -> None:
        make_folder(lake)  # the first run of all may fail before anything is stored
        write_to_file(lake / ALERTS_FILE, line)

    file = Path(operations.alert_file).expanduser()
    found: dict[str, Channel] = {
        "file": (lambda line: write_to_file(file, line)) if operations.alert_file else to_the_lake
    }
    if webhook := operations.alert_webhook.get_secret_value():
        found["webhook"] = lambda line: post(webhook, line)
    server, receivers = operations.alert_smtp.get_secret_value(), operations.alert_mail_to
    if server and receivers:
        found["mail"] = lambda line: mail(server, operations.alert_mail_from, receivers, line)
    return found


def deliver(
    line: str,
    to: Mapping[str, Channel],
    secrets: tuple[str, ...] = (),
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, str]:
    """Send a line by every channel, all at once, each tried three times with a growing wait between.

    Args:
        line: what to say.
        to: channels by name.
        secrets: what must not stand in an error, such as an address with a token in it.
        sleep: waits so many seconds.

    Returns:
        Channel → its last error, of those that failed three times; nothing is ever raised.
    """

    def attempt(channel: Channel) -> str:
        error = ""
        for wait in (*BACK_OFF_S, None):
            try:
                channel(line)
            except Exception as problem:  # whatever a foreign server does, the pipeline goes on
                error = _without(secrets, f"{type(problem).__name__}: {problem}")
            else:
                return ""
            if wait is not None:
                sleep(wait)
        return error

    with ThreadPoolExecutor(max(1, len(to)), thread_name_prefix="alert") as pool:
        errors = dict(zip(to, pool.map(attempt, to.values()), strict=True))
    return {name: one_line(error) for name, error in errors.items() if error}


def secrets_of(operations: Operations) -> tuple[str, ...]:
    """Everything in the settings that no log may show: the addresses, their paths, user and password."""
    found = []
    for address in (operations.alert_webhook, operations.alert_smtp):
        parts = urlsplit(address.get_secret_value())
        raw = [address.get_secret_value(), parts.path.strip("/"), parts.query, parts.username, parts.password]
        found += [form for text in raw if text for form in (text, unquote(text))]
    return tuple(sorted(set(found), key=len, reverse=True))


def _without(secrets: tuple[str, ...], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def write_to_file(file: Path, line: str) -> None:
    """Append a line with the time (UTC) to a file that others may not write."""
    stamped = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        os.write(descriptor, stamped.encode())
    finally:
        os.close(descriptor)


def post(address: str, line: str) -> None:
    """POST `{"text": line}`, the form that Slack, Mattermost and others take; a redirect is an error."""
    import urllib.request
    from urllib.error import HTTPError

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    request = urllib.request.Request(
        address, json.dumps({"text": line}).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=TIMEOUT_S):
            return
    except HTTPError as error:
        raise OSError(f"the webhook answered {error.code} {error.reason}") from None


def mail(server: str, sender: str, receivers: str, line: str) -> None:
    """Send a mail whose subject and text are the line.

    A password only goes over TLS, with the server's certificate checked, or to this very machine.
    """
    import smtplib
    import ssl
    from email.message import EmailMessage

    parts = urlsplit(server)
    host = parts.hostname or ""
    message = EmailMessage()
    message["From"], message["To"] = sender, receivers
    message["Subject"] = line if len(line) <= 120 else line[:119] + "…"
    message.set_content(line)
    connection: smtplib.SMTP
    if parts.scheme == "smtps":
        context = ssl.create_default_context()
        connection = smtplib.SMTP_SSL(host, parts.port or 465, timeout=TIMEOUT_S, context=context)
    else:
        connection = smtplib.SMTP(host, parts.port or 25, timeout=TIMEOUT_S)
    with connection:
        connection.ehlo()
        is_private = parts.scheme == "smtps"
        if not is_private and connection.has_extn("starttls"):
            connection.starttls(context=ssl.create_default_context())
            connection.ehlo()
            is_private = True
        if parts.username:
            if not is_private and not _is_this_machine(host):
                raise OSError("the mail server offers no TLS, so the password is not sent to it")
            connection.login(unquote(parts.username), unquote(parts.password or ""))
        connection.send_message(message)


def _is_this_machine(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
