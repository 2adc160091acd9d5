"""Process names that let another process detect a death.

Belongs here: queries to the operating system, and nothing about what a process does. psutil answers all of
them except the names: its `create_time` moves with the system clock, so a live process would look like a
different one after the clock is set, and it does not know the boot or the process namespace.
"""

import os
import socket
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def name_of_this_process() -> str:
    """Host, boot, process namespace, process id and start time: no later process has the same name."""
    pid = os.getpid()
    return f"{_machine()} {pid} {_started(pid) or 0}"


def is_gone(name: str) -> bool:
    """Whether the process `name` has ended; False for another machine's process, which cannot be checked."""
    host, boot, namespace, pid, started = name.split(" ")
    here = _machine().split(" ")
    if host != here[0]:
        return False
    if boot != here[1]:  # the machine has restarted
        return True
    if namespace != here[2]:
        return False
    return not is_alive(int(pid)) or (started != "0" and _started(int(pid)) != int(started))


def is_alive(pid: int) -> bool:
    """Whether a process `pid` is running on this machine."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's
        return True


def daemons_of(home: Path) -> list[int]:
    """Ids of the Dagster daemons on this machine that serve the instance in `home`."""
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
        except psutil.Error:  # it has ended, or belongs to another user
            continue
    return found


def _machine() -> str:
    boot = _BOOT.read_text().strip() if _BOOT.exists() else "-"
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {namespace.readlink() if namespace.is_symlink() else '-'}"


def _started(pid: int) -> int | None:
    """Clock ticks from boot to the process's start; None where the system has no /proc."""
    try:
        # The command name before it, in parentheses, may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19])
