"""Send a one-line alert to a file, a webhook and a mail server, with three attempts each; never raises.

Belongs here: sending a line, and keeping secrets out of the errors. `defs.alerts` writes the line.
Not apprise: its `mailto` logs in without TLS, and it answers True or False without the reason.
"""

import contextlib
import ipaddress
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import unquote, urlsplit

from emid_assets.runs.failures import one_line
from emid_assets.settings import Operations
from emid_assets.store.files import make_folder
from emid_assets.store.layout import ALERTS_FILE

BACK_OFF_S = (0.5, 1.5)
"""Seconds between the three attempts."""

DEADLINE_S = 9.0
"""Seconds for one alert, all channels and attempts: five alerts fit into the minute of a sensor's tick."""

TIMEOUT_S = 3.0
"""Seconds for one answer of a server, and for one of its addresses."""

MOST_FILE_BYTES = 5_000_000
"""Bytes of the file of alerts, at which a new one begins."""

Channel = Callable[[str], None]
"""Sends a line, or raises."""


def channels(operations: Operations, lake: Path) -> dict[str, Channel]:
    """The configured channels by name; the file is always one of them."""

    def to_the_lake(line: str) -> None:
        make_folder(lake)  # the very first run may fail before anything is stored
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
    on_delivered: Callable[[str], None] = lambda name: None,
    sleep: Callable[[float], None] = time.sleep,
    within_s: float = DEADLINE_S,
) -> dict[str, str]:
    """Send a line to all channels in parallel, with three attempts each and a growing wait between them.

    Args:
        line: the text to send.
        to: channels by name.
        secrets: texts that must not appear in an error, such as an address that contains a token.
        on_delivered: called with the name of each channel that has taken the line.
        sleep: waits the given number of seconds.
        within_s: seconds for all of it; a channel that takes longer is left behind in its thread.

    Returns:
        Channel → last error, for the channels that failed or took too long; no channel's error is raised.
    """
    end = time.monotonic() + within_s
    ended: SimpleQueue[tuple[str, str]] = SimpleQueue()

    def attempt(name: str, channel: Channel) -> None:
        error = ""
        for wait in (*BACK_OFF_S, None):
            try:
                channel(line)
            except Exception as problem:  # the pipeline continues, whatever a foreign server does
                error = _without(secrets, f"{type(problem).__name__}: {problem}")
            else:
                error = ""
                break
            if wait is not None:
                sleep(wait)
            if time.monotonic() > end:
                break
        ended.put((name, error))

    errors = dict.fromkeys(to, f"it took longer than {within_s:.0f} s")
    for name, channel in to.items():
        # Not from a pool: Python waits for the threads of a pool when it exits.
        threading.Thread(target=attempt, args=(name, channel), name=f"alert {name}", daemon=True).start()
    with contextlib.suppress(Empty):
        for _ in to:
            name, errors[name] = ended.get(timeout=max(0.0, end - time.monotonic()))
            if not errors[name]:
                on_delivered(name)
    return {name: one_line(error) for name, error in errors.items() if error}


def secrets_of(operations: Operations) -> tuple[str, ...]:
    """Everything in the settings that no log may show: the addresses, their paths, users and passwords."""
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
    """Append a line with the time (UTC) to a file that only the owner may write.

    A file of `MOST_FILE_BYTES` becomes `NAME.1`, in place of the one before: two files are kept.
    """
    stamped = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}\n"
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISREG(file.stat().st_mode) and file.stat().st_size >= MOST_FILE_BYTES:
            file.replace(file.with_name(f"{file.name}.1"))
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        os.write(descriptor, stamped.encode())
    finally:
        os.close(descriptor)


def for_chat(line: str) -> str:
    """A line as a block of code, in which chat systems see no link, no mention and no other markup.

    Slack also parses what stands between `<` and `>` in a block: it wants them escaped.
    """
    escaped = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "'")
    return f"```\n{escaped}\n```"


def post(address: str, line: str) -> None:
    """POST `{"text": …}`, the format of Slack, Mattermost and others; a redirect is an error."""
    import urllib.request
    from urllib.error import HTTPError

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    request = urllib.request.Request(
        address,
        json.dumps({"text": for_chat(line)}).encode(),
        {"Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=TIMEOUT_S):
            return
    except HTTPError as error:
        raise OSError(f"the webhook answered {error.code} {error.reason}") from None


def mail(server: str, sender: str, receivers: str, line: str) -> None:
    """Send a mail with the line as its subject and text.

    A password is only sent over TLS, after checking the server's certificate, or to this machine.
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
