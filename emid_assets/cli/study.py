"""The commands `emid study …`: the listening study outside the asset graph."""

import socket
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emid_assets.cli.options import (
    BadValueError,
    SettingsCommand,
    output_path,
    settings_from,
    settings_options,
)
from emid_assets.runs.signals import raise_on_signals
from emid_assets.store.layout import ANSWERS_STORE, STUDY_FOLDER, STUDY_PAGE, STUDY_PAGE_FOLDER

if TYPE_CHECKING:
    import polars as pl


@click.group()
def study() -> None:
    """Serve the listening study, or plan its size."""


@study.command("serve", cls=SettingsCommand)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--token",
    help="Secret in the participants' link; without it no answer is accepted. [default: one made for this "
    "study and kept in its folder]",
)
@click.option(
    "--rate",
    type=click.IntRange(1),
    default=600,
    show_default=True,
    help="Answers accepted from one address per minute.",
)
@click.option(
    "--participants",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Participants accepted in total.",
)
@settings_options
def serve_command(
    host: str, port: int, token: str | None, rate: int, participants: int, **options: Any
) -> None:
    """Serve the page of a build's study and collect the answers, until Ctrl-C."""
    import uvicorn

    from emid_assets.study.answers import AnswerStore, DesignFiles
    from emid_assets.study.connections import LimitedConnection
    from emid_assets.study.design import StudyError
    from emid_assets.study.server import study_app, token_of

    if token is not None and len(token) < 8:
        raise BadValueError("--token: give at least 8 characters; a shorter one can be guessed")
    settings = settings_from(options)
    folder = settings.lake_folder / STUDY_FOLDER
    try:
        designs = DesignFiles(folder)
        if not designs or not (folder / STUDY_PAGE_FOLDER / STUDY_PAGE).is_file():
            raise StudyError(f"{folder} has no study: run `emid build`, or materialize listening_study")
        token = token or token_of(folder)
        app = study_app(
            folder / STUDY_PAGE_FOLDER,
            designs,
            AnswerStore(folder / ANSWERS_STORE, participants),
            token,
            rate,
        )
        listener = socket.create_server((host, port), family=_family(host))
    except (StudyError, OSError) as error:
        raise click.ClickException(str(error)) from None
    raise_on_signals()
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"Link for participants  http://{shown}:{listener.getsockname()[1]}/#token={token}")
    click.echo(f"Answers                {folder / ANSWERS_STORE}")
    if host not in ("127.0.0.1", "::1", "localhost"):
        click.echo("This is plain HTTP: on a shared network, put a proxy with HTTPS in front.", err=True)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, http=LimitedConnection, ws="none",
        timeout_keep_alive=30,
    )  # fmt: skip
    # It ends by itself on Ctrl-C, and then raises it again.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


def _counts(_: click.Context, option: click.Parameter, text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 12,24", param=option)
    return counts


@click.command("power")
@click.option(
    "--share",
    type=SHARE,
    default=0.6,
    show_default=True,
    help="Share of trials in which the condition is chosen.",
)
@click.option("--chance", type=SHARE, default=0.5, show_default=True, help="Share under chance.")
@click.option(
    "--versus", type=SHARE, help="Share of another condition in the same trials; replaces --chance."
)
@click.option(
    "--trials", default="12,24,36", show_default=True, callback=_counts, help="Trials per participant."
)
@click.option(
    "--clips", type=click.IntRange(2), default=60, show_default=True, help="Clips in the whole study."
)
@click.option(
    "--participant-sd", type=click.FloatRange(0, 5), default=0.5, show_default=True,
    help="Standard deviation between participants, of the log-odds of a choice.",
)  # fmt: skip
@click.option(
    "--clip-sd",
    type=click.FloatRange(0, 5),
    default=0.5,
    show_default=True,
    help="Standard deviation between clips, of the log-odds of a choice.",
)
@click.option(
    "--significance", type=click.FloatRange(1e-6, 0.5), default=0.05, show_default=True,
    help="Probability of reporting a difference where there is none.",
)  # fmt: skip
@click.option(
    "--power", type=click.FloatRange(0.05, 0.999), default=0.8, show_default=True,
    help="Probability of detecting this difference.",
)  # fmt: skip
@click.option(
    "--comparisons", type=click.IntRange(1, 100), default=6, show_default=True,
    help="Comparisons reported beside each other (Holm's correction): six for four conditions.",
)  # fmt: skip
@click.option(
    "--simulations", type=click.IntRange(100, 1_000_000), default=2000, show_default=True,
    help="Simulated studies of each size.",
)  # fmt: skip
@click.option(
    "--most",
    type=click.IntRange(4, 100_000),
    default=2000,
    show_default=True,
    help="Largest number of participants to try.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the simulation.")
@click.option("--csv", type=click.Path(path_type=Path), callback=output_path, help="Write the table here.")
def power_command(  # noqa: PLR0913 - one for each option
    share: float,
    chance: float,
    versus: float | None,
    trials: list[int],
    clips: int,
    participant_sd: float,
    clip_sd: float,
    significance: float,
    power: float,
    comparisons: int,
    simulations: int,
    most: int,
    seed: int,
    csv: Path | None,
) -> None:
    """Simulate how many participants and trials a difference needs."""
    from emid_assets.study.optional_packages import missing_packages

    if missing := missing_packages():
        raise click.ClickException(missing)
    from emid_assets.study.power import Question, independent_trials, power_table

    if versus is not None and share + versus > 1:
        raise BadValueError(f"--share {share} and --versus {versus} add up to more than 1")
    if max(trials) > clips:
        raise BadValueError(
            f"--trials {max(trials)} needs at least {max(trials)} clips, and --clips is {clips}"
        )
    question = Question(
        share=share,
        against=chance if versus is None else versus,
        head_to_head=versus is not None,
        participant_sd=participant_sd,
        clip_sd=clip_sd,
        clips=clips,
        significance=significance,
        power=power,
        comparisons=comparisons,
    )
    try:
        fewest, always = independent_trials(question)
    except ValueError as error:
        raise BadValueError(str(error)) from None
    among = (
        "" if versus is None else f", in the {question.decided:.0%} of the trials that choose one of the two"
    )
    click.echo(
        f"{question.share:.3g} against {question.against:.3g}{among}; two-sided {significance:.3g} over "
        f"{comparisons} comparisons (Holm's strictest step: {question.strictest:.3g}), power {power:.3g}.\n"
        f"With independent trials: at least {fewest} such trials; from {always} on, every number is enough "
        "(exact binomial test).\n"
        f"With standard deviations of {participant_sd:g} between participants and {clip_sd:g} between clips "
        f"(log-odds), and {clips} clips:"
    )
    from emid_assets.runs.progress_lines import ProgressLines

    with ProgressLines(partial(click.echo, err=True)) as lines:
        lines.begin("simulating")
        needed = power_table(
            question, trials, seed, simulations, most,
            on_study=lambda each, people: lines.tell(f"{people} participants, {each} trials each"),
        )  # fmt: skip
    if csv is not None:
        needed.write_csv(csv)
    _print(needed, most)


def _print(frame: "pl.DataFrame", most: int) -> None:
    from emid_assets.cli.terminal import console, table

    rows = []
    for each, participants, total, power, times in frame.rows():
        needed = f"above {most}" if participants is None else participants
        of_all = ("–", "–") if total is None else (total, f"{times:.1f}")
        rows.append((each, needed, of_all[0], f"{power:.2f}", of_all[1]))
    columns = ("trials per participant", "participants", "trials in total", "power", "× independent trials")
    console().print(table(columns, rows))
    if frame["participants"].null_count():
        click.echo(f"Where {most} participants are not enough, more clips help, not more participants.")


study.add_command(power_command)
