"""`emid import`: published data sets as media folders that `emid build --media` takes."""

import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SHOWN_EXAMPLES = 2


@click.group("import")
def import_group() -> None:
    """Read a published data set into a media folder of yours."""


@import_group.command("emid")
@click.option(
    "--csv", "table", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="EMID's table, EMID_data.csv; its files lie below --media.",
)  # fmt: skip
@click.option(
    "--media", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder, with any folders in it, that holds the music and image files.",
)  # fmt: skip
@click.option(
    "--parquet", "patterns", multiple=True,
    help="Parquet files that hold rows and media, such as 'data/train-*.parquet', or their folder.",
)  # fmt: skip
@click.option(
    "--to", "folder", type=click.Path(path_type=Path), default=Path("emid-media"), show_default=True,
    help="Media folder to make.",
)  # fmt: skip
@click.option(
    "--licence",
    help="Licence of items that no music.csv or images.csv beside the rows lists; else EMID's.",
)
@click.option("--author", help="Author of such items; else EMID's.")
@click.option("--label-source", help="Where the labels of such items come from; else EMID's paper.")
@click.option(
    "--overwrite", is_flag=True,
    help="Replace files and tables that were changed since an import wrote them; the changes are lost.",
)  # fmt: skip
@click.argument("more", nargs=-1, metavar="")
def import_emid_command(
    table: Path | None,
    media: Path | None,
    patterns: tuple[str, ...],
    folder: Path,
    licence: str | None,
    author: str | None,
    label_source: str | None,
    overwrite: bool,
    more: tuple[str, ...],
) -> None:
    """Make a media folder of the published EMID, with its pairs to compare yours with.

    Give either --csv and --media, or --parquet. A stopped import goes on where it was; nothing is read
    twice. Every row with a fault is named in import.csv of the new folder, with what was done about it.

    A music.csv and images.csv beside the rows, such as a release of this project has, tell the licence,
    author and source of each item that they list. The others get EMID's licence and author, unless told
    otherwise.
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
        raise click.UsageError(f"--to {folder} holds what is to be imported: give another folder")
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip
    given = {"licence": licence, "author": author, "label_source": label_source}
    terms = replace(EMID_TERMS, **{name: value for name, value in given.items() if value is not None})
    try:
        if table is not None and media is not None:
            pieces = csv_pieces(table, media)
        else:
            pieces = parquet_pieces([*patterns, *more], media)
        with progress:
            bar = progress.add_task("rows", total=sum(piece.rows for piece in pieces))
            summary = import_emid(
                pieces,
                folder,
                lambda done, total: progress.update(bar, completed=done, total=total),
                ItemTables.of_folders(places_beside(pieces, media)),
                terms,
                overwrite,
            )
    except (SourceError, TableError, ImportRefusedError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        place = error.filename or folder
        raise click.ClickException(f"{place}: {error.strerror or error}; what is read is kept") from None
    except KeyboardInterrupt:
        raise click.ClickException("stopped: what is read is kept; the same command goes on") from None
    removed = f"; {summary.removed_files} files of an earlier import removed" if summary.removed_files else ""
    rates = ", ".join(f"{count} at {rate:,} Hz" for rate, count in sorted(summary.sample_rates.items()))
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for name, value in {
        "rows": f"{summary.rows}, of which {summary.reused_rows} were read before{removed}",
        "clips": f"{summary.clips} ({summary.originals} original) of {summary.sources} sources; {rates}",
        "images": str(summary.images),
        "pairs": str(summary.pairs),
        "terms": f"{summary.clips + summary.images - summary.listed_items} items: {terms.licence}, "
        f"{terms.author}; {summary.listed_items} as the tables beside the rows say",
    }.items():
        console.print(f"{name:<9} {value}")
    for outcome in ("mended", "kept", "rejected"):
        found = [finding for finding in summary.findings if finding.outcome == outcome]
        console.print(f"{outcome:<9} {len(found)}")
        for kind, count in Counter(finding.kind for finding in found).most_common():
            console.print(f"  {count:>7}  {kind}")
            for finding in [finding for finding in found if finding.kind == kind][:SHOWN_EXAMPLES]:
                console.print(f"           {finding.where}, {finding.item}: {finding.reason}")
    console.print(f"all of them: {summary.folder / 'import.csv'}")
    if not summary.clips:
        raise click.ClickException("no clip could be used: see the reasons above")
    console.print(f"next:        emid build --media {shlex.quote(str(folder))}")
