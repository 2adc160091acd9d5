"""Settings: one definition, checked where values enter."""

from pathlib import Path
from typing import Any

import click
import dagster as dg
import pytest
from click.testing import CliRunner

from emid_assets.cli.main import main
from emid_assets.cli.options import settings_from, settings_options
from emid_assets.orchestration.resources import SettingsResource, settings_resource
from emid_assets.runs.instance import environment_of
from emid_assets.settings import (
    EARNED_ALPHA,
    GROUPS,
    PAPER_ALPHA,
    SAMPLE_MEDIA,
    Operations,
    Settings,
    SettingsError,
    allowed_range,
    in_use,
    load_settings,
    setting_text,
)
from tools.make_settings_page import PAGE, settings_page


def test_defaults_are_the_methods() -> None:
    settings = load_settings({"method": "paper"}, environment={})
    assert (in_use(settings, "alpha"), settings.images_per_clip, settings.semantic_rescaling) == (
        0.6,
        3,
        "candidate_minmax",
    )
    assert (in_use(settings, "emotion_kernel"), settings.va_alignment, settings.epochs) == (
        "cosine",
        "standardize",
        50,
    )


@pytest.mark.parametrize(
    ("given", "alpha", "kernel"),
    [
        ({}, EARNED_ALPHA["bundled"], "gaussian"),
        ({"encoder": "imagebind"}, PAPER_ALPHA, "gaussian"),
        ({"method": "paper"}, PAPER_ALPHA, "cosine"),
        ({"alpha": 0.25, "emotion_kernel": "cosine"}, 0.25, "cosine"),
        ({"method": "paper", "alpha": "0", "emotion_kernel": "gaussian"}, 0.0, "gaussian"),
    ],
)
def test_auto_is_what_the_method_and_the_encoder_say(
    given: dict[str, Any], alpha: float, kernel: str
) -> None:
    settings = load_settings(given, {})
    assert (in_use(settings, "alpha"), in_use(settings, "emotion_kernel")) == (alpha, kernel)


def test_each_setting_stands_in_exactly_one_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted([*Settings.model_fields, *Operations.model_fields])


def test_the_page_of_the_settings_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == settings_page(), "run: python tools/make_settings_page.py"
    for name, field in (Settings.model_fields | Operations.model_fields).items():
        [row] = [line for line in page.splitlines() if line.startswith((f"| `{name}` |", f"| `{name}` † |"))]
        is_shown = isinstance(field.default, str | int | float) and field.default != ""
        shown = f"`{setting_text(field.default)}`" if is_shown else "empty"
        default = "the sample" if name == "media" else shown
        assert f" | {default} | " in row
        assert row.endswith(f" | `EMID_{name.upper()}` | {field.description} |")
        if name in Settings.model_fields:
            assert f" | {allowed_range(name)} | " in row


def test_an_override_goes_before_the_environment_and_that_before_the_default() -> None:
    environment = {"EMID_ALPHA": "0.5", "EMID_CANDIDATES": "7"}
    settings = load_settings({"alpha": "0.25", "seed": None}, environment)
    assert (in_use(settings, "alpha"), settings.candidates, settings.seed) == (0.25, 7, 0)


@pytest.mark.parametrize(
    ("name", "value", "range_"),
    [
        ("alpha", "1.5", "auto or 0.0 to 1.0"),
        ("alpha", "nan", "auto or 0.0 to 1.0"),
        ("alpha", "much", "auto or 0.0 to 1.0"),
        ("candidates", "0", "1 to 100000"),
        ("candidates", "many", "1 to 100000"),
        ("images_per_clip", "-1", "1 to 1000"),
        ("gaussian_sigma", "0", "above 0.0 to 10.0"),
        ("encoder", "clip", "bundled or imagebind"),
        ("predict_emotion", "perhaps", "off or on"),
        ("device", "tpu", "auto, cpu, mps, cuda or cuda:N"),
        ("release_forms", "folder,zip", "some of folder, parquet, retrieval, comma-separated"),
        ("semantic_rescaling", "softmax", "candidate_minmax or raw or candidate_softmax"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_setting_and_its_range(
    name: str, value: str, range_: str
) -> None:
    with pytest.raises(SettingsError, match=name) as by_override:
        load_settings({name: value}, {})
    assert range_ in str(by_override.value)
    with pytest.raises(SettingsError, match=f"EMID_{name.upper()}") as by_environment:
        load_settings({}, {f"EMID_{name.upper()}": value})
    assert range_ in str(by_environment.value)


@pytest.mark.parametrize(("text", "value"), [("on", True), ("off", False)])
def test_what_is_on_or_off_is_true_or_false_however_it_is_given(
    text: str, value: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMID_PREDICT_EMOTION", raising=False)
    assert load_settings({}, {"EMID_PREDICT_EMOTION": text}).predict_emotion is value
    assert load_settings({"predict_emotion": text}, {}).predict_emotion is value
    seen: list[object] = []

    @click.command()
    @settings_options
    def command(**options: Any) -> None:
        seen.append(settings_from(options).predict_emotion)

    assert CliRunner().invoke(command, ["--predict-emotion", text]).exit_code == 0
    assert seen == [value]
    variables = environment_of(Settings(predict_emotion=value), tmp_path)
    assert variables["EMID_PREDICT_EMOTION"] == text

    @dg.asset
    def probe(settings: SettingsResource) -> None:
        seen.append(settings.predict_emotion)

    resource = settings_resource(Settings(predict_emotion=not value))
    config = {"resources": {"settings": {"config": {"predict_emotion": value}}}}
    assert dg.materialize([probe], resources={"settings": resource}, run_config=config).success
    assert seen == [value, value]


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"alpha.*seed"):
        load_settings({"alpha": 2, "seed": -1}, {})


def test_a_misspelt_setting_is_an_error_and_not_ignored() -> None:
    with pytest.raises(SettingsError, match="EMID_ALPAH"):
        load_settings({}, {"EMID_ALPAH": "0.5"})
    with pytest.raises(SettingsError, match="alpah"):
        load_settings({"alpah": 0.5}, {})


def test_every_setting_has_a_meaning_and_a_range() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert allowed_range(name), name


def test_each_media_folder_has_a_lake_of_its_own(tmp_path: Path) -> None:
    lakes = set()
    for folder in (tmp_path / "a" / "media", tmp_path / "b" / "media", SAMPLE_MEDIA):
        lakes.add(load_settings({"media": str(folder)}, {}).lake_folder)
    assert len(lakes) == 3
    given = load_settings({"media": str(tmp_path), "lake": str(tmp_path / "lake")}, {})
    assert given.lake_folder == tmp_path / "lake"


def test_the_launchpad_overrides_one_setting_and_keeps_the_rest() -> None:
    seen = {}

    @dg.asset
    def probe(settings: SettingsResource) -> None:
        seen.update(alpha=in_use(settings, "alpha"), candidates=settings.candidates)

    resource = settings_resource(Settings(candidates=7))
    config = {"resources": {"settings": {"config": {"alpha": 0.9}}}}
    assert dg.materialize([probe], resources={"settings": resource}, run_config=config).success
    assert seen == {"alpha": 0.9, "candidates": 7}


def test_the_launchpad_refuses_a_value_out_of_range() -> None:
    @dg.asset
    def probe(settings: SettingsResource) -> None: ...

    config = {"resources": {"settings": {"config": {"alpha": 1.9}}}}
    with pytest.raises(dg.DagsterError) as error:
        dg.materialize([probe], resources={"settings": settings_resource(Settings())}, run_config=config)
    assert "alpha" in str(error.value.__cause__)
    assert "auto or a number from 0 to 1" in str(error.value.__cause__)


def test_the_launchpad_refuses_to_reshape_the_graph() -> None:
    @dg.asset
    def probe(settings: SettingsResource) -> None: ...

    config = {"resources": {"settings": {"config": {"shards_per_emotion": 3}}}}
    with pytest.raises(dg.DagsterError) as error:
        dg.materialize([probe], resources={"settings": settings_resource(Settings())}, run_config=config)
    assert "shapes the graph" in str(error.value.__cause__)


def test_a_run_for_another_lake_than_that_of_its_definitions_is_refused(tmp_path: Path) -> None:
    @dg.asset
    def probe(settings: SettingsResource) -> None: ...

    resources = {"settings": settings_resource(Settings(lake=str(tmp_path / "one")))}
    config = {"resources": {"settings": {"config": {"lake": str(tmp_path / "two")}}}}
    with pytest.raises(dg.DagsterError) as error:
        dg.materialize([probe], resources=resources, run_config=config)
    assert f"definitions were loaded for the lake {tmp_path / 'one'}" in str(error.value.__cause__)


def test_the_launchpad_may_change_a_limit_of_reuse_but_not_whether_there_is_one() -> None:
    seen = []

    @dg.asset
    def probe(settings: SettingsResource) -> None:
        seen.append(settings.image_reuse_limit)

    for loaded, given in ((2, 5), (0, 5), (5, 0)):
        config = {"resources": {"settings": {"config": {"image_reuse_limit": given}}}}
        resources = {"settings": settings_resource(Settings(image_reuse_limit=loaded))}
        if loaded and given:
            assert dg.materialize([probe], resources=resources, run_config=config).success
        else:
            with pytest.raises(dg.DagsterError) as error:
                dg.materialize([probe], resources=resources, run_config=config)
            assert "image_reuse_limit shapes the graph" in str(error.value.__cause__)
    assert seen == [5]


def test_variables_of_the_operations_are_no_settings_of_a_run() -> None:
    variables = {f"EMID_{name.upper()}": "x" for name in Operations.model_fields}
    assert load_settings({}, variables) == Settings()
    assert not set(Operations.model_fields) & set(Settings.model_fields)


@pytest.mark.parametrize(
    "command",
    [["sweep", "--csv"], ["query", "image", str(SAMPLE_MEDIA / "images" / "awe_nasa0.jpg"), "--html"]],
)
def test_a_file_that_cannot_be_written_is_an_error_of_one_line_before_the_work(
    command: list[str], tmp_path: Path
) -> None:
    result = CliRunner().invoke(main, [*command, str(tmp_path / "nowhere" / "out")])
    assert result.exit_code == 2
    assert "cannot be written" in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("EMID_ALFA", "unknown setting EMID_ALFA: did you mean EMID_ALPHA?"),
        ("EMID_ALERT_FIEL", "unknown setting EMID_ALERT_FIEL: did you mean EMID_ALERT_FILE?"),
        ("emid_alpha", "unknown setting emid_alpha: did you mean EMID_ALPHA?"),
        ("Emid_Profile", "unknown setting Emid_Profile: did you mean EMID_PROFILE?"),
        ("EMID_QQQ", "unknown setting EMID_QQQ (docs/settings.md lists all)"),
    ],
)
def test_an_unknown_name_is_told_with_the_one_that_was_meant(variable: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({}, {variable: "1"})
    assert str(caught.value).startswith(said)
