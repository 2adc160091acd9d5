"""Runs that are handed to a launcher, where its server is not there yet or goes on answering nothing.

What a real cluster does with runs is in `failures/test_ray.py`.
"""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterEvent, DagsterEventType
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from emid_assets.build import ray_runs as launched
from emid_assets.build.ray_runs import NO_AGENT, ClusterError, launched_runs


class Reluctant(RunLauncher, ConfigurableClass):
    """Refuses the first `refusals` runs with `answer`; the others succeed at once."""

    def __init__(self, refusals: int, answer: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()
        self.refusals, self.answer, self.most, self._inst_data = refusals, answer, 0, inst_data
        self.waiting: list[dg.DagsterRun] = []

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"refusals": int, "answer": str}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "Reluctant":
        return cls(**config_value, inst_data=inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError(f"Request failed with status code 500: {self.answer}")
        run = context.dagster_run
        under_way = [run for run in self._instance.get_runs() if not run.is_finished]
        self.most = max(self.most, len(under_way))
        self.waiting.append(run)
        if len(self.waiting) == 2:  # a pair ends together
            for ended in self.waiting:
                event = DagsterEvent(DagsterEventType.PIPELINE_SUCCESS.value, ended.job_name)
                self._instance.report_dagster_event(event, ended.run_id)
            self.waiting = []

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        raise ConnectionError("Connection refused")

    def terminate(self, run_id: str) -> bool:
        return False


@dg.op
def nothing() -> None: ...


NEEDS = {"dagster-ray/config": '{"num_gpus": 1}'}


@dg.job(partitions_def=dg.StaticPartitionsDefinition(list("abcd")), tags=NEEDS)
def stage() -> None:
    nothing()


def instance_with(folder: Path, refusals: int, answer: str) -> dg.DagsterInstance:
    launcher = {
        "module": __name__, "class": "Reluctant", "config": {"refusals": refusals, "answer": answer},
    }  # fmt: skip
    return dg.DagsterInstance.local_temp(str(folder), overrides={"run_launcher": launcher})


def test_a_launcher_whose_server_is_not_up_yet_is_asked_again_and_what_waits_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launched, "PATIENCE_S", 4.0)
    said: list[str] = []
    with instance_with(tmp_path, 1, NO_AGENT) as instance:
        ended = dict(launched_runs(instance, stage, list("ab"), {}, said.append))
        statuses = [run.status for run in instance.get_runs()]
    assert ended == {"a": None, "b": None}
    assert len(said) == 1
    assert NO_AGENT in said[0]
    assert statuses.count(dg.DagsterRunStatus.FAILURE) == 1


def test_a_launcher_that_goes_on_refusing_ends_the_build_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launched, "PATIENCE_S", 1.0)
    with (
        instance_with(tmp_path, 1000, NO_AGENT) as instance,
        pytest.raises(ClusterError, match="no answer for 1 s") as error,
    ):
        list(launched_runs(instance, stage, ["a"], {}, lambda _: None))
    assert "\n" not in str(error.value)


def test_a_launcher_that_will_never_take_the_run_is_not_asked_again(tmp_path: Path) -> None:
    with (
        instance_with(tmp_path, 1, "no such option") as instance,
        pytest.raises(ClusterError, match=r"the run of stage a could not be launched: .* no such option"),
    ):
        list(launched_runs(instance, stage, ["a"], {}, lambda _: None))


def test_a_server_that_dies_while_runs_are_under_way_ends_the_build_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PATIENCE_S": 3.0, "LOOK_AFTER_S": 0.5, "POLL_S": 0.1}.items():
        monkeypatch.setattr(launched, name, value)
    said: list[str] = []
    with (
        instance_with(tmp_path, 0, "") as instance,
        pytest.raises(ClusterError, match="no answer for 3 s: Connection refused"),
    ):
        list(launched_runs(instance, stage, ["a"], {}, said.append))
    assert len(said) == 1


def test_runs_keep_the_tags_of_their_job_and_no_more_are_under_way_than_asked_for(tmp_path: Path) -> None:
    with instance_with(tmp_path, 0, "") as instance:
        ended = dict(launched_runs(instance, stage, list("abcd"), {}, lambda _: None, at_most=2))
        assert len(ended) == 4
        for run in instance.get_runs():
            assert run.tags.items() >= NEEDS.items()  # what the launcher reads
        assert instance.run_launcher.most == 2  # type: ignore[attr-defined]
