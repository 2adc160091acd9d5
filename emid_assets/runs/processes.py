"""Process names that let another process detect a death.

Belongs here: what is asked of the operating system. What a process was doing is its caller's. psutil answers
all but the names: its `create_time` moves with the system's clock, so that a living process would count as
another one after the clock was set, and it knows no boot and no process namespace.
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
    """Whether there is a process `pid` on this machine that has not ended."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # somebody else's
        return True


def daemons_of(home: Path) -> list[int]:
    """Processes of this machine that are Dagster daemons on the instance in `home`."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            is_daemon = "dagster._daemon" in command or any(
                word.endswith("dagster-daemon") for word in command
            )
            if is_daemon and process.environ().get("DAGSTER_HOME") == str(home):
                found.append(process.pid)
        except psutil.Error:  # ended since, or somebody else's
            continue
    return found


def _machine() -> str:
    boot = _BOOT.read_text().strip() if _BOOT.exists() else "-"
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {namespace.readlink() if namespace.is_symlink() else '-'}"


def _started(pid: int) -> int | None:
    """Clock ticks from boot to the process's start; None where the system has no /proc."""
    try:
        # The command's name comes before, in parentheses, and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19])
