"""Recipes: what a stored partition was made from, and why that differs from what it would be made from now.

A partition is current if its stored recipe equals the one it would have now. `emid build`, `emid status`, the
automation conditions and the nightly schedule all use this definition. Nothing here uses Dagster or reads a
file: `orchestration.table_asset` records the recipes, `health.verdict` compares them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RECIPE = "recipe"
"""Key in the metadata of a stored version."""

CHANGED_MEDIA = "changed_media"
"""Key in the metadata of a stored version: how many media were left out because their files had changed."""

MANNER = frozenset(
    {
        "media", "lake", "imagebind_checkpoint", "device", "batch_size", "workers", "embedding_actors",
        "matching_threads", "matching_memory_mb", "fresh_days", "shards_per_emotion", "image_shards",
    }
)  # fmt: skip
"""Settings that say where and how a build runs. Every asset may read them, and no recipe has them: media
count by their content, an encoder's weights by their fingerprint, shards by the names of the partitions.
(An asset may still declare one: what is in a shard of the images depends on how many there are.)"""


@dataclass(frozen=True)
class Recipe:
    """What a partition is made from.

    Attributes:
        code: the version of the asset's code.
        settings: the value of each setting that the asset declares.
        inputs: table → the data version that was read; of several partitions, `digest_of` their versions.
        outside: a digest of what the asset reads from outside the lake, such as the media folder.
    """

    code: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outside: str = ""

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps({**self.__dict__}, sort_keys=True, default=dict)

    @classmethod
    def of_text(cls, text: object) -> "Recipe | None":
        """The inverse of `to_text`; None for a version that has no recipe, or one of another form."""
        try:
            return cls(**json.loads(str(text)))
        except (ValueError, TypeError):
            return None

    def difference(self, stored: "Recipe | None", outside: str) -> str:
        """Why a partition with the recipe `stored` is not current; empty if it is.

        Args:
            stored: None if the version has no recipe.
            outside: what the asset reads from outside the lake, in words.
        """
        if stored is None:
            return "built by a version that kept no recipe"
        reasons = []
        if self.code != stored.code:
            reasons.append("code changed")
        settings = sorted(
            f"{name} ({stored.settings.get(name)} → {self.settings.get(name)})"
            for name in self.settings  # what was stored besides has no effect any more
            if self.settings.get(name) != stored.settings.get(name)
        )
        inputs = sorted(
            name
            for name in self.inputs.keys() | stored.inputs.keys()
            if self.inputs.get(name) != stored.inputs.get(name)
        )
        if settings:
            reasons.append(f"setting changed: {', '.join(settings)}")
        if inputs:
            reasons.append(f"input changed: {', '.join(inputs)}")
        if self.outside != stored.outside:
            reasons.append(f"{outside} changed")
        return "; ".join(reasons)


def digest_of(versions: Mapping[str, str]) -> str:
    """One data version for the partitions of an input: partition → data version."""
    if len(versions) == 1:
        return next(iter(versions.values()))
    lines = "\n".join(f"{partition} {version}" for partition, version in sorted(versions.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def code_version(code: int, settings: Mapping[str, Any]) -> str:
    """What Dagster compares to find assets whose code or settings have changed: `1-0a1b2c3d4e5f`."""
    values = json.dumps(dict(settings), sort_keys=True)
    return f"{code}-{hashlib.sha256(values.encode()).hexdigest()[:12]}" if settings else str(code)
