"""The settings as a Dagster resource, so that the launchpad shows and overrides them."""

import copy

import dagster as dg
from pydantic import create_model

from emid_assets.settings import Settings


class SettingsResource(dg.ConfigurableResource["SettingsResource"], Settings):
    """The settings of a run; what the launchpad does not name keeps the value it was loaded with."""


def settings_resource(settings: Settings) -> SettingsResource:
    """A resource whose defaults in the launchpad are `settings`.

    The defaults sit in a class made for them: Dagster fills what a launchpad leaves out from the
    class, not from the instance, so values given to an instance would be lost there.
    """
    fields = {}
    for name, field in Settings.model_fields.items():
        with_default = copy.copy(field)
        with_default.default = getattr(settings, name)
        fields[name] = (field.annotation, with_default)
    model = create_model("SettingsResource", __base__=SettingsResource, **fields)  # type: ignore[call-overload]
    resource: SettingsResource = model.configure_at_launch()
    return resource
