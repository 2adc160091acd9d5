"""A lake on NFS 4.2, written to by two machines with kernels of their own.

What the profile `ray` adds to this, to start the runs on its nodes, is tested in `test_ray.py` on nodes of
one machine: a cluster on such machines as these takes minutes for a run.
"""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from emid_assets_tests.failures import on_a_machine
from emid_assets_tests.failures.machines import Machine, Machines, machines
from emid_assets_tests.failures.test_ray import SHARDED, ShardedPipeline, tables_of
from emid_assets_tests.failures.tiny import Pipeline

pytestmark = pytest.mark.heavy

GONE_S = 60
TOGETHER = (
    (["inventory"], []),
    (["embed_music:sad", "embed_images:awe"], ["embed_images:fear"]),
    (["expand:sad"], []),
    (["match_shards:0|sad"], ["match_shards:1|sad"]),
    (["align:sad"], []),
    (["train_adapter:bmf"], []),
)
"""The runs of `SHARDED`, those that one machine does while the other does others."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with machines(tmp_path_factory.mktemp("machines")) as running:
        yield running


@pytest.fixture(scope="module")
def expected(built: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one machine alone makes of the media: a digest of each table, and nothing unfinished."""
    here = ShardedPipeline(built.media, tmp_path_factory.mktemp("here"))
    assert here.run_places(SHARDED) == ""
    return [{table: on_a_machine.digest(frame) for table, frame in tables_of(here).items()}, []]


def command(name: str, *arguments: str) -> str:
    return shlex.join([sys.executable, "-m", on_a_machine.__name__, name, *arguments])


def ask(machine: Machine, name: str, *arguments: str) -> Any:
    """What a function of `on_a_machine` says last."""
    return answer(machine.run(command(name, *arguments)))


def answer(printed: str) -> Any:
    said = [line for line in printed.splitlines() if line.startswith(on_a_machine.SAID)]
    return json.loads(said[-1].removeprefix(on_a_machine.SAID))


def begin(machine: Machine, name: str, *arguments: str, until: str) -> None:
    """Have a function done while other things are; return once it says `until`."""
    machine.run(f"rm -f /mnt/{name}.ended")
    machine.run(f"({command(name, *arguments)}; touch /mnt/{name}.ended) >/mnt/{name} 2>&1 &")
    machine.run(f"until grep '{until}' /mnt/{name}; do test ! -e /mnt/{name}.ended; sleep 1; done")


def has_ended(machine: Machine, name: str) -> bool:
    return machine.run(f"test -e /mnt/{name}.ended && echo yes || echo no") == "yes"


def end_of(machine: Machine, name: str) -> Any:
    """What a function said last that was begun."""
    machine.run(f"until test -e /mnt/{name}.ended; do sleep 1; done")
    return answer(machine.run(f"cat /mnt/{name}"))


def stop(machine: Machine, name: str) -> None:
    machine.run(f"pkill -f '{on_a_machine.__name__} {name}$'")


def test_runs_on_two_machines_at_once_give_every_table_bit_for_bit(
    three: Machines, built: Pipeline, expected: Any
) -> None:
    assert [place for stage in TOGETHER for runs in stage for place in runs] == [
        f"{stage}:{key}" if key else stage for stage, key in SHARDED
    ]
    three.one.run(command("media", str(built.media)))
    for of_one, of_the_other in TOGETHER:
        if of_the_other:
            begin(three.other, "run", *of_the_other, until="RUN_START")
        assert ask(three.one, "run", *of_one) == ""
        if of_the_other:
            assert end_of(three.other, "run") == ""
    assert ask(three.one, "digests") == ask(three.other, "digests") == expected


def test_a_machine_sees_what_another_has_locked_and_reads(three: Machines) -> None:
    # With a delegation, a reader's lock stays on its machine.
    three.server.run("sysctl fs.leases-enable=0")
    begin(three.other, "hold", until="held")
    assert ask(three.one, "waits_for_a_lock")
    stop(three.other, "hold")
    assert not ask(three.one, "waits_for_a_lock")
    begin(three.other, "read", until="open")
    assert ask(three.one, "is_read")
    stop(three.other, "read")
    assert not ask(three.one, "is_read")
    three.server.run("sysctl fs.leases-enable=1")


def test_a_machine_that_loses_its_power_leaves_no_lock(three: Machines, expected: Any) -> None:
    begin(three.other, "hold", until="held")
    begin(three.one, "run", "embed_images:fear", until="STEP_START")
    three.other.lose_power()
    three.start(three.other)
    assert end_of(three.one, "run") == ""
    assert ask(three.one, "digests") == expected


@pytest.mark.parametrize("trouble", ["silent", "restarted"])
def test_a_run_waits_for_a_file_server_that_does_not_answer_for_a_minute(
    three: Machines, expected: Any, trouble: str
) -> None:
    begin(three.other, "hold", until="held")
    begin(three.one, "run", "embed_images:fear", until="STEP_START")
    three.server.pause()
    time.sleep(GONE_S)
    assert not has_ended(three.one, "run")
    if trouble == "silent":
        three.server.go_on()
    else:
        three.server.lose_power()
        three.start_server()
    assert not has_ended(three.one, "run")  # the other machine has kept its lock
    stop(three.other, "hold")
    assert end_of(three.one, "run") == ""
    assert ask(three.one, "digests") == ask(three.other, "digests") == expected
