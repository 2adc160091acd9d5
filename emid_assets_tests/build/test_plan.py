"""The waves of a build, on a made-up graph: A reads nothing, B reads A, C reads B, D reads A; one stage."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from emid_assets.build.plan import Plan, as_table
from emid_assets.health.recipes import RECIPE, Recipe, digest_of
from emid_assets.health.verdict import DATA_VERSION, AssetFacts
from emid_assets.store.lake import Lake

PARENTS: dict[str, list[str]] = {"a": [], "b": ["a"], "c": ["b"], "d": ["a"]}
PARTITIONS = ("calm", "sad")


class Graph:
    """A graph whose assets one can build and change."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.settings = dict.fromkeys(PARENTS, 0)

    def facts(self) -> list[AssetFacts]:
        def made(name: str) -> AssetFacts:
            def recipe(_: str, inputs: Mapping[str, Mapping[str, str]]) -> Recipe:
                return Recipe(1, {name: self.settings[name]}, {t: digest_of(v) for t, v in inputs.items()})

            same = {one: (one,) for one in PARTITIONS}
            return AssetFacts(name, PARTITIONS, dict.fromkeys(PARENTS[name], same), recipe, stage="all")

        return [made(name) for name in PARENTS]

    def build(self, name: str, partition: str, content: str) -> None:
        (asset,) = (asset for asset in self.facts() if asset.name == name)
        inputs = {
            parent: {partition: str(version.metadata[DATA_VERSION])}
            for parent in PARENTS[name]
            if (version := self.lake.current(parent, partition))
        }
        metadata = {DATA_VERSION: content, RECIPE: asset.recipe(partition, inputs).to_text()}
        self.lake.write(name, partition, pl.DataFrame({"x": [1]}), metadata)

    def plan(self, everything: bool = False) -> Plan:
        return Plan(self.lake, self.facts(), [], 30, everything)


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    graph = Graph(Lake(tmp_path / "lake"))
    for name in PARENTS:
        for partition in PARTITIONS:
            graph.build(name, partition, "1")
    return graph


def waves(graph: Graph, plan: Plan, contents: Mapping[str, str] = {}) -> list[dict[str, list[str]]]:
    """The waves of a build whose assets get the given contents, and else the one that they had."""
    ran = []
    for wave in plan.waves("all"):
        ran.append(wave)
        for partition, names in wave.items():
            for name in names:
                graph.build(name, partition, contents.get(name, "1"))
    return ran


def every(*names: str) -> dict[str, list[str]]:
    """A wave of these assets in every partition."""
    return {partition: list(names) for partition in PARTITIONS}


def test_a_graph_that_is_current_has_no_waves(graph: Graph) -> None:
    assert waves(graph, graph.plan()) == []
    assert graph.plan().with_dependents() == {}


def test_an_empty_lake_is_built_in_one_wave(tmp_path: Path) -> None:
    graph = Graph(Lake(tmp_path / "new"))
    assert waves(graph, graph.plan()) == [every(*PARENTS)]


def test_what_reads_an_asset_is_run_only_if_the_content_changed(graph: Graph) -> None:
    graph.settings["a"] = 1
    assert waves(graph, graph.plan()) == [every("a")]
    graph.settings["a"] = 2
    assert waves(graph, graph.plan(), {"a": "2"}) == [
        every("a"),
        every("b", "d"),
    ]


def test_an_asset_below_one_that_may_stay_as_it_is_waits_for_it_and_is_run_once(graph: Graph) -> None:
    graph.settings |= {"a": 1, "c": 1}
    ran = waves(graph, graph.plan(), {"a": "2", "b": "2"})
    assert ran == [
        every("a"),
        every("b", "c", "d"),
    ]


def test_one_partition_alone_is_run(graph: Graph) -> None:
    graph.build("a", "sad", "2")
    assert waves(graph, graph.plan(), {"b": "2", "c": "2"}) == [{"sad": ["b", "d"]}, {"sad": ["c"]}]


def test_what_stays_stale_is_not_run_for_ever(graph: Graph) -> None:
    graph.settings["a"] = 1
    plan, runs = graph.plan(), 0
    for wave in plan.waves("all"):  # nothing is stored
        runs += 1
        assert wave == every("a")
    assert runs == 1


def test_all_runs_everything_once(graph: Graph) -> None:
    assert waves(graph, graph.plan(everything=True)) == [every(*PARENTS)]


def test_the_plan_says_why_and_what_may_follow(graph: Graph) -> None:
    graph.settings["b"] = 1
    graph.lake.remove("d", "sad")
    plan = graph.plan()
    assert as_table(plan.with_dependents(), plan.assets).rows() == [
        ("b", "2/2", "setting changed: b (0 → 1)"),
        ("c", "2/2", "if it changes: b"),
        ("d", "1/2", "missing: never built"),
    ]
