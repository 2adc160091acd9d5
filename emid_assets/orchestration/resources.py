"""The settings as a Dagster resource: the launchpad shows them and can override them."""

import copy
from collections.abc import Callable
from typing import Any, cast

import dagster as dg
from pydantic import create_model

from emid_assets.settings import Settings

SHAPING_THE_GRAPH: dict[str, Callable[[int], object]] = {
    "shards_per_emotion": int,
    "image_shards": int,
    "image_reuse_limit": bool,
}
"""Settings that shape the graph, and what of the value does."""


class SettingsResource(dg.ConfigurableResource["SettingsResource"], Settings):
    """The settings of a run; a setting that the launchpad omits keeps the value it was loaded with."""


def settings_resource(settings: Settings) -> SettingsResource:
    """A resource with `settings` as the defaults in the launchpad.

    It is a plain resource with the schema of a configurable one, which reads its schema seven times in each
    run: 40 ms of CPU with this many fields.
    """

    def of_run(context: dg.InitResourceContext) -> Settings:
        given = Settings.model_validate(context.resource_config)
        for name, shape in SHAPING_THE_GRAPH.items():
            if shape(getattr(given, name)) != shape(getattr(settings, name)):
                raise ValueError(
                    f"{name} shapes the graph, which was loaded with {getattr(settings, name)}: set "
                    f"EMID_{name.upper()} and reload the definitions"
                )
        if given.lake_folder != settings.lake_folder:
            raise ValueError(
                f"this run would write to {given.lake_folder}, and the definitions were loaded for the lake "
                f"{settings.lake_folder}: set EMID_LAKE and reload the definitions"
            )
        return given

    fields = {}
    for name, field in Settings.model_fields.items():
        with_default = copy.copy(field)
        with_default.default = getattr(settings, name)
        # Dagster has no union: the launchpad takes auto and a number, and `Settings` checks them.
        fields[name] = (Any if name == "alpha" else field.annotation, with_default)
    model = create_model("SettingsResource", __base__=SettingsResource, **fields)  # type: ignore[call-overload]
    resource = dg.ResourceDefinition(of_run, model.to_config_schema(), SettingsResource.__doc__)
    return cast(SettingsResource, resource)
