"""The whole graph as text, for review: `graph.txt` beside this file is compared with the graph as it is.

`python -m emid_assets_tests.graph` rewrites it.
"""

from pathlib import Path
from typing import Any

import dagster as dg

from emid_assets.definitions import build_definitions
from emid_assets.orchestration.stages import STAGE

SNAPSHOT = Path(__file__).with_name("graph.txt")
REWRITE = "python -m emid_assets_tests.graph"


def stage_of_assets(definitions: dg.Definitions) -> dict[str, str]:
    """Asset → the stage of the build that builds it, upstream first."""
    graph = definitions.resolve_asset_graph()
    return {key.path[-1]: graph.get(key).tags[STAGE] for key in graph.toposorted_asset_keys}


def graph_text() -> str:
    """The graph; and below it, what differs where a setting gives it other assets."""
    whole = assets_as_text(build_definitions())
    parts = [*whole.values()]
    for shape in ({"image_shards": 2}, {"image_reuse_limit": 1}):
        other = assets_as_text(build_definitions(**shape))
        parts += [f"With {name} = {value}:" for name, value in shape.items()]
        parts += [lines for name, lines in other.items() if lines != whole.get(name)]
    return "\n\n".join(parts) + "\n"


def assets_as_text(definitions: dg.Definitions) -> dict[str, str]:
    """Asset → its stage, group and number of partitions, what it is made from, and its checks."""
    graph = definitions.resolve_asset_graph()
    checks: dict[str, list[str]] = {}
    for check in sorted(graph.asset_check_keys):
        blocks = " (blocks)" if graph.get_check_spec(check).blocking else ""
        checks.setdefault(check.asset_key.path[-1], []).append(f"{check.name}{blocks}")
    text = {}
    for key in sorted(graph.get_all_asset_keys()):
        name, node = key.path[-1], graph.get(key)
        partitions = len(node.partitions_def.get_partition_keys()) if node.partitions_def else 1
        text[name] = "\n".join(
            [
                name,
                f"  stage {node.tags[STAGE]}, group {node.group_name}, partitions {partitions}",
                *(
                    f"  from {parent.path[-1]}{_mapping(graph, key, parent)}"
                    for parent in sorted(node.parent_keys)
                ),
                *(f"  check {check}" for check in checks[name]),
            ]
        )
    return text


def _mapping(graph: Any, key: dg.AssetKey, parent: dg.AssetKey) -> str:
    """Which partitions of a parent a partition is made from, where both have some."""
    if not (graph.get(key).partitions_def and graph.get(parent).partitions_def):
        return ""
    mapping = type(graph.get_partition_mapping(key, parent)).__name__
    words = {"AllPartitionMapping": "every partition", "IdentityPartitionMapping": "the same partition"}
    return f": {words.get(mapping, mapping)}"


if __name__ == "__main__":
    SNAPSHOT.write_text(graph_text(), encoding="utf-8")
