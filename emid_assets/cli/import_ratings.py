"""`emid import ratings`: published ratings, and outputs of other models, into music.csv and images.csv."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from emid_assets.media.ratings_import import Outcome

SHOWN_EXAMPLES = 3
COUNTS = ("added", "completed", "replaced", "unchanged")


@click.command("ratings")
@click.argument(
    "tables", nargs=-1, required=True, metavar="TABLE...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)  # fmt: skip
@click.option(
    "--media", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The media folder, with the rated files in music/ or images/.",
)  # fmt: skip
@click.option(
    "--scale", type=float, nargs=2, metavar="LOW HIGH",
    help="Lowest and highest value of the tables. [default: as DEAM, PMEmo, OASIS or IAPS have it]",
)  # fmt: skip
@click.option(
    "--raters", type=click.IntRange(min=1), metavar="N",
    help="People behind each value, where no column says so: makes a standard error of the deviations.",
)  # fmt: skip
@click.option("--model", help="The values are outputs of this model, not people's ratings.")
@click.option(
    "--kind", type=click.Choice(["music", "image"]), help="What the tables rate. [default: as the names say]"
)
@click.option(
    "--below", default="", metavar="FOLDER",
    help="Sub-folder of music/ or images/ with the rated files, where others have the same names.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace other values that music.csv or images.csv has.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def import_ratings_command(  # noqa: PLR0913 - one for each option
    tables: tuple[Path, ...],
    media: Path,
    scale: tuple[float, float] | None,
    raters: int | None,
    model: str | None,
    kind: str | None,
    below: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Add ratings from published tables to music.csv and images.csv of a media folder.

    The layouts of DEAM, PMEmo, OASIS and IAPS are known, with their scales. Any other table needs columns
    file, valence and arousal, and --scale; or file and tag. Values over time are averaged. Give tables that
    belong together, such as means and deviations, in one command.

    Your rows stay, and so do values that you have already: what differs is told.
    """
    from emid_assets.media.limits import MediaFolderError, TableError
    from emid_assets.media.published_ratings import Reading, read_ratings
    from emid_assets.media.ratings_import import Target, import_ratings

    if scale is not None and not scale[0] < scale[1]:
        raise click.BadParameter("LOW must be less than HIGH", param_hint="--scale")
    name = " ".join((model or "").split())
    if model is not None and not name:
        raise click.BadParameter("give the model's name", param_hint="--model")
    try:
        read = [read_ratings(table, Reading(scale, raters, bool(name))) for table in tables]
        outcome = import_ratings(read, Target(media, kind, below, name, overwrite))
    except (TableError, MediaFolderError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(
            f"{error.filename or media}: {error.strerror or error}; no table was changed halfway"
        ) from None
    if as_json:
        click.echo(json.dumps(_as_json(outcome), indent=1))
    else:
        _print(outcome)
    if not any(table.found for table in outcome.tables):
        raise click.ClickException(
            f"no file that the tables name is in {media}: put the files into its music/ or images/ first"
        )


def _as_json(outcome: "Outcome") -> dict[str, object]:
    return {
        "tables": [
            {
                "path": str(each.table.path),
                "layout": each.table.layout.title,
                "kind": each.kind,
                "scale": each.table.scale,
                "names": len(each.table.ratings),
                "found": each.found,
                "absent": each.absent,
                "unclear": each.unclear,
                "problems": each.table.problems,
                "deviations_not_used": each.table.single_deviations,
            }
            for each in outcome.tables
        ],
        "written": [
            {
                "table": each.name,
                **{count: getattr(each, count) for count in COUNTS},
                "conflicts": each.conflicts,
            }
            for each in outcome.written
        ],
    }


def _print(outcome: "Outcome") -> None:
    for each in outcome.tables:
        table = each.table
        scale = f", {table.scale[0]:g} to {table.scale[1]:g}" if table.scale else ""
        what = "clips" if each.kind == "music" else "images"
        found = f"{each.found:,} of {len(table.ratings):,} {what} found"
        click.echo(f"{table.path.name}: {table.layout.title}{scale}; {found}")
        if table.single_deviations:
            click.echo(
                f"  {table.single_deviations:,} deviations are not used: give --raters N for standard errors"
            )
        _examples("not in the media folder", [repr(name) for name in each.absent])
        _examples("not clear; give --below FOLDER", each.unclear)
        _examples("left out", table.problems)
    for written in outcome.written:
        counts = ", ".join(f"{getattr(written, count):,} {count}" for count in COUNTS)
        click.echo(f"{written.name}: rows {counts}")
        _examples("in conflict", written.conflicts)


def _examples(title: str, found: Sequence[str]) -> None:
    if found:
        click.echo(f"  {len(found):,} {title}:")
        for line in found[:SHOWN_EXAMPLES]:
            click.echo(f"    {line}")
        if len(found) > SHOWN_EXAMPLES:
            click.echo(f"    and {len(found) - SHOWN_EXAMPLES:,} more: --json lists all")
