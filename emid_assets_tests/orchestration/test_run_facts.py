"""Which runs decide the health of a lake: the newest of each of its partitions, whatever came after."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from emid_assets.definitions import definitions
from emid_assets.health.verdict import RunFacts
from emid_assets.orchestration import old_runs
from emid_assets.orchestration.run_facts import run_facts
from emid_assets.runs.run_tags import LAKE_TAG, name_of_lake


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """One that lakes share."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "shared"))
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def make(instance: dg.DagsterInstance, job: str, status: str, partition: str = "", **tags: str) -> str:
    if partition:
        tags["dagster/partition"] = partition
    of_job = definitions.resolve_job_def(job)
    return instance.create_run_for_job(of_job, status=dg.DagsterRunStatus[status], tags=tags).run_id


def last(facts: list[RunFacts], asset: str, partition: str) -> tuple[str, str]:
    """The newest run of a partition that has ended, and its state."""
    found = [
        run for run in facts if asset in run.assets and run.partition == partition and run.state != "running"
    ]
    return found[0].run_id, found[0].state


def test_a_failure_is_not_forgotten_after_any_number_of_later_runs(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_runs, "RUNS_AT_ONCE", 3)
    make(instance, "align", "SUCCESS", "sad")
    failed = make(instance, "align", "FAILURE", "sad")
    for _ in range(10):
        make(instance, "collect_answers", "SUCCESS")
    under_way = make(instance, "align", "STARTED", "sad")
    facts = run_facts(instance, definitions, tmp_path / "lake")
    assert last(facts, "fused_pairs", "sad") == (failed, "failed")
    assert [run.run_id for run in facts if run.state == "running"] == [under_way]


def test_runs_of_another_lake_on_the_same_instance_decide_nothing(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    lakes = [tmp_path / "one", tmp_path / "two"]
    failed, succeeded = (
        make(instance, "align", status, "sad", **{LAKE_TAG: name_of_lake(lake)})
        for lake, status in zip(lakes, ("FAILURE", "SUCCESS"), strict=True)
    )
    found = [last(run_facts(instance, definitions, lake), "fused_pairs", "sad") for lake in lakes]
    assert found == [(failed, "failed"), (succeeded, "succeeded")]


def test_an_instance_in_its_lake_may_be_moved_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lake in (tmp_path / "before", tmp_path / "after"):
        monkeypatch.setenv("DAGSTER_HOME", str(lake / "dagster"))
        assert name_of_lake(lake) == ".."
        assert name_of_lake(tmp_path / "elsewhere") == str(tmp_path / "elsewhere")
    monkeypatch.delenv("DAGSTER_HOME")
    assert name_of_lake(tmp_path / "before") == ".."


def test_a_failed_run_says_which_runs_came_after_it(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    before = make(instance, "align", "SUCCESS", "sad")
    make(instance, "align", "FAILURE", "sad")
    after = make(instance, "align", "CANCELED", "sad")
    (failed, *_) = run_facts(instance, definitions, tmp_path / "lake")
    assert [failed.came_before(run_id) for run_id in (before, after, "unknown", "")] == [
        False,
        True,
        None,
        None,
    ]
