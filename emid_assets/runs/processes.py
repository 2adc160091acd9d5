"""Naming a process so that another one can tell, later, that it is gone.

Belongs here: what is asked of the operating system. What a process was doing is its caller's.
"""

import os
import socket
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def name_of_this_process() -> str:
    """Host, boot, process namespace, process id and start: no later process has the same name."""
    pid = os.getpid()
    return f"{_machine()} {pid} {_started(pid) or 0}"


def is_gone(name: str) -> bool:
    """Whether the process that had `name` has ended; False for one of another machine: nobody here knows."""
    host, boot, namespace, pid, started = name.split(" ")
    here = _machine().split(" ")
    if host != here[0]:
        return False
    if boot != here[1]:  # restarted since
        return True
    if namespace != here[2]:
        return False
    return not is_alive(int(pid)) or (started != "0" and _started(int(pid)) != int(started))


def is_alive(pid: int) -> bool:
    """Whether there is a process `pid` on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return _state(pid) != "Z"


def daemons_of(home: Path) -> list[int]:
    """Processes of this machine that are Dagster daemons on the instance in `home`. (On Linux only.)"""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # ended since, or somebody else's
            continue
        is_daemon = b"dagster._daemon" in command or any(word.endswith(b"dagster-daemon") for word in command)
        if is_daemon and f"DAGSTER_HOME={home}".encode() in environment:
            found.append(int(folder.name))
    return found


def _machine() -> str:
    boot = _BOOT.read_text().strip() if _BOOT.exists() else "-"
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {namespace.readlink() if namespace.is_symlink() else '-'}"


def _state(pid: int) -> str:
    return (_stat(pid) or [""])[0]


def _started(pid: int) -> int | None:
    """Clock ticks from boot to the process's start, which no change of the clock moves; None if unknown."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name, which may hold anything; none elsewhere."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
