"""The settings as a Dagster resource: the launchpad shows them and can override them."""

import copy

import dagster as dg
from pydantic import ValidationInfo, create_model, field_validator

from emid_assets.settings import Settings

SHAPING_THE_GRAPH = ("shards_per_emotion", "image_shards")


class SettingsResource(dg.ConfigurableResource["SettingsResource"], Settings):
    """The settings of a run; a setting that the launchpad omits keeps the value it was loaded with."""


def settings_resource(settings: Settings) -> SettingsResource:
    """A resource with `settings` as the defaults in the launchpad.

    The defaults are in a generated class: Dagster fills omitted values from the class, not from the
    instance, so values given to an instance would be lost.
    """

    def keeps_the_graph(value: int, info: ValidationInfo) -> int:
        loaded = getattr(settings, str(info.field_name))
        if value != loaded:
            raise ValueError(
                f"{info.field_name} shapes the graph, which was loaded with {loaded}: set "
                f"EMID_{str(info.field_name).upper()} and reload the definitions"
            )
        return value

    fields = {}
    for name, field in Settings.model_fields.items():
        with_default = copy.copy(field)
        with_default.default = getattr(settings, name)
        fields[name] = (field.annotation, with_default)
    validators = {"keeps_the_graph": field_validator(*SHAPING_THE_GRAPH)(keeps_the_graph)}
    model = create_model("SettingsResource", __base__=SettingsResource, __validators__=validators, **fields)  # type: ignore[call-overload]
    resource: SettingsResource = model.configure_at_launch()
    return resource
