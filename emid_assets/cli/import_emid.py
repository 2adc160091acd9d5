"""`emid import`, and `emid import emid`: EMID as a media folder that `emid build --media` takes."""

import json
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emid_assets.cli.import_ratings import import_ratings_command
from emid_assets.cli.options import BadValueError

if TYPE_CHECKING:
    from emid_assets.release.emid_import import ImportSummary, Terms

COUNTS = (
    "rows", "reused_rows", "clips", "originals", "sources", "images", "pairs", "listed_items",
    "removed_files",
)  # fmt: skip
OUTCOMES = ("repaired", "kept", "rejected")
SHOWN_EXAMPLES = 2


@click.group("import")
def import_group() -> None:
    """Read a published data set or ratings into a media folder."""


import_group.add_command(import_ratings_command)


@import_group.command("emid")
@click.option(
    "--csv", "table", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="EMID's table, EMID_data.csv; its media files are in --media.",
)  # fmt: skip
@click.option(
    "--media", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that holds the music and image files, at any depth.",
)  # fmt: skip
@click.option(
    "--parquet", "patterns", multiple=True,
    help="Parquet files with rows and media, such as 'data/train-*.parquet', or their folder.",
)  # fmt: skip
@click.option(
    "--to", "folder", type=click.Path(file_okay=False, path_type=Path), default=Path("emid-media"),
    show_default=True,
    help="Media folder to write.",
)  # fmt: skip
@click.option(
    "--licence",
    help="Licence of items that no music.csv or images.csv beside the rows lists. [default: EMID's]",
)
@click.option("--author", help="Author of such items. [default: EMID's]")
@click.option("--label-source", help="Source of the labels of such items. [default: EMID's paper]")
@click.option(
    "--overwrite", is_flag=True,
    help="Replace files and tables that were changed since an import wrote them; the changes are lost.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.argument("more", nargs=-1, metavar="")
def import_emid_command(  # noqa: PLR0913 - one for each option
    table: Path | None,
    media: Path | None,
    patterns: tuple[str, ...],
    folder: Path,
    licence: str | None,
    author: str | None,
    label_source: str | None,
    overwrite: bool,
    as_json: bool,
    more: tuple[str, ...],
) -> None:
    """Read the published EMID into a media folder, with its pairs for comparison.

    Give either --csv and --media, or --parquet. Run a stopped import again to resume it: nothing is read
    twice. The file import.csv in the new folder lists every row with a fault and what was done about it.

    A music.csv and an images.csv beside the rows, as in a release of this project, give the licence, author
    and source of each item that they list. Other items get EMID's licence and author unless you name others.
    """
    from emid_assets.media.limits import TableError
    from emid_assets.release.emid_import import EMID_TERMS, import_emid
    from emid_assets.release.emid_source import SourceError, csv_pieces, parquet_pieces, places_beside
    from emid_assets.release.import_folder import ImportRefusedError
    from emid_assets.release.item_tables import ItemTables

    # A shell expands a pattern without quotes: its files then come as arguments.
    if more and not patterns:
        raise click.UsageError(f"unknown argument {more[0]!r}")
    if (table is None) == (not patterns) or (table is not None and media is None):
        raise click.UsageError("give either --csv and --media, or --parquet")
    if media is not None and media.resolve().is_relative_to(folder.resolve()):
        raise click.UsageError(f"--to {folder} contains the files to import: give another folder")
    from emid_assets.cli.terminal import progress

    given = {"licence": licence, "author": author, "label_source": label_source}
    terms = replace(EMID_TERMS, **{name: value for name, value in given.items() if value is not None})
    try:
        if table is not None and media is not None:
            pieces = csv_pieces(table, media)
        else:
            pieces = parquet_pieces([*patterns, *more], media)
    except SourceError as error:
        raise BadValueError(str(error)) from None
    try:
        with progress("import", "rows", sum(piece.rows for piece in pieces)) as on_progress:
            summary = import_emid(
                pieces,
                folder,
                on_progress,
                ItemTables.of_folders(places_beside(pieces, media)),
                terms,
                overwrite,
            )
    except (SourceError, TableError, ImportRefusedError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        place = error.filename or folder
        raise click.ClickException(f"{place}: {error.strerror or error}; finished rows are kept") from None
    except KeyboardInterrupt:
        raise click.ClickException(
            "stopped: finished rows are kept; run the same command again to resume"
        ) from None
    if as_json:
        click.echo(json.dumps(_as_json(summary), indent=1))
    else:
        _print(summary, terms)
    if not summary.clips:
        raise click.ClickException(
            f"no clip could be used: see the reasons in {summary.folder / 'import.csv'}"
        )
    if not as_json:
        click.echo(f"next:        emid build --media {shlex.quote(str(folder))}")


def _as_json(summary: "ImportSummary") -> dict[str, object]:
    outcomes = Counter(finding.outcome for finding in summary.findings)
    return {
        "folder": str(summary.folder),
        **{name: getattr(summary, name) for name in COUNTS},
        "sample_rates": dict(summary.sample_rates),
        "findings": {outcome: outcomes[outcome] for outcome in OUTCOMES},
        "findings_file": str(summary.folder / "import.csv"),
    }


def _print(summary: "ImportSummary", terms: "Terms") -> None:
    removed = f"; {summary.removed_files} files of an earlier import removed" if summary.removed_files else ""
    rates = ", ".join(f"{count} at {rate:,} Hz" for rate, count in sorted(summary.sample_rates.items()))
    for name, value in {
        "rows": f"{summary.rows}, {summary.reused_rows} of them read by an earlier import{removed}",
        "clips": f"{summary.clips} ({summary.originals} original) from {summary.sources} sources; {rates}",
        "images": str(summary.images),
        "pairs": str(summary.pairs),
        "terms": f"{summary.clips + summary.images - summary.listed_items} items: {terms.licence}, "
        f"{terms.author}; {summary.listed_items} items: as in the tables beside the rows",
    }.items():
        click.echo(f"{name:<9} {value}")
    for outcome in OUTCOMES:
        found = [finding for finding in summary.findings if finding.outcome == outcome]
        click.echo(f"{outcome:<9} {len(found)}")
        for kind, count in Counter(finding.kind for finding in found).most_common():
            click.echo(f"  {count:>7}  {kind}")
            for finding in [finding for finding in found if finding.kind == kind][:SHOWN_EXAMPLES]:
                click.echo(f"           {finding.where}, {finding.item}: {finding.reason}")
    click.echo(f"all of them: {summary.folder / 'import.csv'}")
