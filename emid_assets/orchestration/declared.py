"""What an asset declares that it is made from, and the recipe of a partition by it.

Belongs here: the declarations, the check that an asset reads no other setting, and the recipe of a run under
way. `health.recipes` says what a recipe is; `run_facts` derives the recipe that a partition would have now.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import dagster as dg

from emid_assets.health.recipes import MANNER, Recipe, digest_of
from emid_assets.health.verdict import data_version
from emid_assets.orchestration.io_manager import stored_partition, versions_read
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.settings import APPLIES, Settings, in_use, setting_text
from emid_assets.store.lake import WHOLE_TABLE, Lake


class UndeclaredSettingError(RuntimeError):
    """An asset reads a setting that it does not declare, so that it would not be rebuilt when it changes."""


@dataclass(frozen=True)
class Outside:
    """What an asset reads from outside the lake's tables.

    Attributes:
        name: in words, for `… changed`.
        digest: of the settings and a partition; equal as long as nothing has changed. It must be fast.
    """

    name: str
    digest: Callable[[Settings, str], str]


@dataclass(frozen=True)
class Declared:
    """What an asset declares besides its inputs.

    Attributes:
        code: version of its code: raise it whenever the same inputs would give another result.
        settings: names of the settings that its result depends on.
        outside: None if it only reads the lake's tables.
        writes: files and folders that it writes beside its table, relative to the lake.
    """

    code: int = 1
    settings: tuple[str, ...] = ()
    outside: Outside | None = None
    writes: tuple[str, ...] = ()

    def values(self, settings: Settings) -> dict[str, Any]:
        """The values in use of the declared settings that have an effect with the others."""
        used = [name for name in sorted(self.settings) if name not in APPLIES or APPLIES[name](settings)]
        return {name: setting_text(in_use(settings, name)) for name in used}

    def recipe(self, settings: Settings, partition: str, inputs: Mapping[str, Mapping[str, str]]) -> Recipe:
        """The recipe of a partition.

        Args:
            settings: of the run.
            partition: with the lake's name.
            inputs: table → partition → the data version that is read.
        """
        return Recipe(
            self.code,
            self.values(settings),
            {table: digest_of(versions) for table, versions in inputs.items() if versions},
            self.outside.digest(settings, partition) if self.outside else "",
        )


DECLARED: dict[str, Declared] = {}
"""The declaration of each asset, by name; filled by `table_asset`."""


class _DeclaredSettings:
    """The settings in use; reading one that the asset does not declare is an error."""

    def __init__(self, settings: SettingsResource, asset: str) -> None:
        self.undeclared = settings
        self._asset = asset
        self._allowed = MANNER.union(DECLARED[asset].settings)

    def __getattr__(self, name: str) -> Any:
        if name in Settings.model_fields and name not in self._allowed:
            raise UndeclaredSettingError(
                f"asset {self._asset} reads the setting {name} and does not declare it: add it to the "
                "`settings` of its table_asset, so that a change of it makes the asset stale"
            )
        return in_use(self.undeclared, name)


def only_declared(settings: SettingsResource, asset: str) -> SettingsResource:
    """The settings as an asset gets them: reading one that it does not declare is an error."""
    return cast(SettingsResource, _DeclaredSettings(settings, asset))


def all_of(settings: SettingsResource) -> Settings:
    """Every setting of a run, for a record or another process: no result may depend on undeclared ones."""
    every = getattr(settings, "undeclared", settings)
    return Settings(**{name: getattr(every, name) for name in Settings.model_fields})


def recipe_of_run(context: dg.AssetExecutionContext, settings: SettingsResource) -> Recipe:
    """The recipe of the partition that a step is about to compute, after its inputs were loaded.

    An input that is rebuilt meanwhile leaves the older data version in the recipe: the partition counts as
    stale then.
    """
    asset = context.asset_key.path[-1]
    lake = Lake(settings.lake_folder)
    loaded = versions_read(context.run_id, context.op_execution_context.get_step_execution_context().step.key)
    inputs = {
        key.path[-1]: loaded.get(key.path[-1]) or versions_of(lake, key.path[-1], _partitions(context, name))
        for name, key in context.assets_def.keys_by_input_name.items()
    }
    partition = stored_partition(context.partition_key) if context.has_partition_key else WHOLE_TABLE
    return DECLARED[asset].recipe(settings, partition, inputs)


def versions_of(lake: Lake, table: str, partitions: Iterable[str]) -> dict[str, str]:
    """Partition → its current data version, of those that are built."""
    built = lake.current_files(table)
    versions = (lake.current(table, partition) for partition in partitions if partition in built)
    return {version.partition: data_version(version) for version in versions if version is not None}


def _partitions(context: dg.AssetExecutionContext, input_name: str) -> list[str]:
    step = context.op_execution_context.get_step_execution_context()
    if not step.has_asset_partitions_for_input(input_name):
        return [WHOLE_TABLE]
    return [stored_partition(key) for key in context.asset_partition_keys_for_input(input_name)]
