"""Machines with kernels and a network of their own, one of which serves a folder by NFS to the others.

Each is Linux in user space (the package `user-mode-linux`) on this machine's files, which it cannot change:
so they have the same Python at the same path, and whatever they write is in their memory or in the folder.
Nothing of them is reached from outside the network.
"""

import contextlib
import os
import queue
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from emid_assets_tests.conftest import REPOSITORY

NETWORK = "emid"
LINUX = "/usr/bin/linux.uml"
MODULES = "/usr/lib/uml/modules"
SHARED = "/mnt/shared"
BOOT_S = 120
MAPPINGS = Path("/proc/sys/vm/max_map_count")
ENOUGH_MAPPINGS = 1_000_000
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/mnt",
    "TMPDIR": "/mnt",
    "DAGSTER_HOME": "/mnt/dagster",
    "NUMBA_CACHE_DIR": "/mnt/numba",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": str(REPOSITORY),
    "OMP_NUM_THREADS": "1",
}

FIRST = """
stty -echo; PS1= PS2=
mount -t proc proc /proc; mount -t sysfs sys /sys
for folder in /run /mnt /var/lib/nfs; do mount -t tmpfs tmpfs $folder; done
ln -s /proc/self/fd /dev/fd
mkdir -p /dev/shm /mnt/lib /mnt/shared /mnt/disk; mount -t tmpfs tmpfs /dev/shm
ln -s {modules} /mnt/lib/modules
hostname {name}; ip link set lo up; ip addr add 10.77.0.{number}/24 dev vec0; ip link set vec0 up
"""
"""Every machine has a host name of its own: by that, NFS 4 tells whose a lock is."""

SERVE = """
modprobe -d /mnt nfsd && mount -t nfsd nfsd /proc/fs/nfsd
mount /dev/ubda /mnt/disk
mkdir -p /mnt/disk/shared /mnt/disk/clients /var/lib/nfs/v4recovery /run/rpc_pipefs
mount --bind /mnt/disk/clients /var/lib/nfs/v4recovery
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
echo 10 > /proc/fs/nfsd/nfsv4leasetime; echo 10 > /proc/fs/nfsd/nfsv4gracetime
exportfs -i -o rw,sync,no_root_squash,no_subtree_check,fsid=0 10.77.0.0/24:/mnt/disk/shared
rpc.mountd -N 3 2>/dev/null
rpc.nfsd -N 3 -V 4.2 4
"""
"""A server forgets who locked what when it restarts, and lets its clients tell it again for ten seconds."""

MOUNT = "modprobe -d /mnt nfsv4 && mount -t nfs4 -o vers=4.2,hard,actimeo=1 10.77.0.1:/ " + SHARED


def needs_machines() -> None:
    """Skip where there are no such machines to be had."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a network")
    programs = (LINUX, "ip", "mkfs.ext4", "modprobe", "exportfs", "mount.nfs4")
    missing = [name for name in programs if not shutil.which(name)]
    if missing:
        pytest.skip(
            f"needs {', '.join(missing)}: "
            "apt-get install user-mode-linux nfs-kernel-server iproute2 kmod e2fsprogs"
        )
    if int(MAPPINGS.read_text()) < ENOUGH_MAPPINGS:  # such a kernel maps each page of its processes by itself
        pytest.skip(f"needs sysctl vm.max_map_count={ENOUGH_MAPPINGS}")


@dataclass
class Machine:
    """A machine, and a shell on its console."""

    name: str
    number: int
    memory: str
    log: Path
    options: tuple[str, ...] = ()
    process: "subprocess.Popen[str] | None" = None
    _lines: "queue.Queue[str | None]" = field(default_factory=queue.Queue)

    def boot(self) -> None:
        """Start it, with its network."""
        self._lines = queue.Queue()
        self.process = process = subprocess.Popen(
            ["ip", "netns", "exec", NETWORK, LINUX, f"mem={self.memory}", "root=/dev/root",
             "rootfstype=hostfs", "rootflags=/", "ro", "init=/bin/sh", "con=null", "con0=fd:0,fd:1",
             f"vec0:transport=tap,ifname={NETWORK}{self.number},gro=1", "quiet", "loglevel=1", *self.options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True, env=os.environ | {"TMPDIR": "/dev/shm"},
        )  # fmt: skip
        threading.Thread(target=self._read, args=(process, self._lines), daemon=True).start()
        self._say(FIRST.format(modules=MODULES, name=self.name, number=self.number))
        self._say("".join(f"export {key}={shlex.quote(value)}\n" for key, value in ENVIRONMENT.items()))
        self.run("true", BOOT_S)

    def run(self, script: str, within_s: float = 600) -> str:
        """What a shell script prints; it must succeed."""
        self._say(f"( set -e\n{script}\n) </dev/null 2>&1; echo; echo ==ended $?\n")
        end, said = time.monotonic() + within_s, []
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"{self.name}: no end of\n{script}\n" + "\n".join(said[-50:])
            if line.startswith("==ended "):
                break
            said.append(line)
        assert line == "==ended 0", f"{self.name}: {line} of\n{script}\n" + "\n".join(said[-50:])
        return "\n".join(said).strip()

    def pause(self) -> None:
        """It does nothing at all, until it goes on."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def lose_power(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)  # the kernel: `ip netns exec` has become it

    def _say(self, text: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def _read(self, process: "subprocess.Popen[str]", lines: "queue.Queue[str | None]") -> None:
        assert process.stdout is not None
        with self.log.open("a") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                lines.put(line.strip())
        lines.put(None)


@dataclass
class Machines:
    """A file server, and two that share its folder."""

    server: Machine
    one: Machine
    other: Machine

    def start_server(self) -> None:
        self.server.boot()
        self.server.run(SERVE)

    def start(self, machine: Machine) -> None:
        machine.boot()
        machine.run(MOUNT)


@contextlib.contextmanager
def machines(folder: Path) -> Iterator[Machines]:
    """The three of them while the block runs; what their consoles say is in `folder`."""
    needs_machines()
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(1_000_000_000)
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    three = Machines(
        Machine("fileserver", 1, "256M", folder / "server.log", (f"ubd0={disk}",)),
        Machine("one", 2, "3G", folder / "one.log"),
        Machine("other", 3, "3G", folder / "other.log"),
    )
    with network(len(vars(three))):
        try:
            three.start_server()
            three.start(three.one)
            three.start(three.other)
            yield three
        finally:
            for machine in vars(three).values():
                machine.lose_power()


@contextlib.contextmanager
def network(machines: int) -> Iterator[None]:
    """A network that is this machine's alone and leads nowhere."""
    inside = f"ip -netns {NETWORK}"
    commands = [
        f"ip netns add {NETWORK}",
        f"{inside} link add name lan type bridge",
        f"{inside} link set lan up",
    ]
    for number in range(1, machines + 1):
        tap = f"{NETWORK}{number}"
        commands += [f"{inside} tuntap add dev {tap} mode tap", f"{inside} link set {tap} master lan up"]
    try:
        for command in commands:
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"needs a network of its own: {command}: {done.stderr.strip()}")
        yield
    finally:
        subprocess.run(["ip", "netns", "del", NETWORK], check=False)
