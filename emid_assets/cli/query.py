"""The commands `emid query` and `emid sweep`: a built lake asked by a new file, and by other settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from emid_assets.adapters import DEFAULT_NETWORK, NETWORKS
from emid_assets.cli.options import SettingsCommand, output_path, settings_from, settings_options
from emid_assets.media.kinds import MediaKind

Number = TypeVar("Number", int, float)


def _list_of(
    number: Callable[[str], Number], wanted: str
) -> Callable[[click.Context, click.Parameter, str | None], list[Number] | None]:
    """Callback of an option whose value is a list, such as `0,0.5,1`."""

    def parse(_: click.Context, option: click.Parameter, text: str | None) -> list[Number] | None:
        if text is None:
            return None
        try:
            return [number(part) for part in text.split(",")]
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a list of {wanted}", param=option) from None

    return parse


_numbers = _list_of(float, "numbers such as 0,0.5,1")
_counts = _list_of(int, "whole numbers such as 1,3")


@click.command("query", cls=SettingsCommand)
@click.argument("kind", type=click.Choice(["music", "image"]))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Results to show.")
@click.option(
    "--network", type=click.Choice(list(NETWORKS)), default=DEFAULT_NETWORK, show_default=True,
    help="Adapter whose new embeddings rank.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--html", type=click.Path(path_type=Path), callback=output_path,
    help="Write a page with pictures and players here.",
)  # fmt: skip
@settings_options
def query_command(
    kind: MediaKind,
    file: Path,
    top: int,
    network: str,
    as_json: bool,
    html: Path | None,
    **options: Any,
) -> None:
    """Find the images nearest to a music FILE, or the music to an image."""
    from emid_assets.search.query import query

    settings = settings_from(options)
    try:
        answer = query(kind, file, settings, network, top)
    except (ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    if html is not None:
        from emid_assets.search.results_page import results_page

        html.write_text(results_page(answer, settings.media_folder), encoding="utf-8")
        click.echo(f"{html}", err=True)
    if as_json:
        click.echo(answer.results.write_json())
        return
    from emid_assets.cli.terminal import console, table

    columns = {"semantic_similarity": "S", "emotional_similarity": "E", "fused_score": "T"}
    shown = answer.results.select("rank", "item_id", "label", "score", *columns).rename(columns)
    console().print(table(shown.columns, shown.rows()))


@click.command("sweep", cls=SettingsCommand)
@click.option(
    "--alphas", default="0,0.2,0.4,0.6,0.8,1", show_default=True, callback=_numbers, help="Values of α."
)
@click.option("--pairs", default="1,3,5", show_default=True, callback=_counts, help="Values of m.")
@click.option(
    "--counts",
    callback=_counts,
    help="Values of K. [default: all candidates that were stored, and half]",
)
@click.option(
    "--csv", type=click.Path(path_type=Path), callback=output_path, help="Write the whole table here."
)
@settings_options
def sweep_command(
    alphas: list[float], pairs: list[int], counts: list[int] | None, csv: Path | None, **options: Any
) -> None:
    """Show what α, m and K do to the pairs of a build.

    It mixes the S and E that the build has stored again, so it encodes nothing.
    """
    from emid_assets.cli.terminal import console, table
    from emid_assets.evaluation.sweep import NO_JUDGE, selected_point, sweep_lake
    from emid_assets.store.lake import Lake

    settings = settings_from(options)
    try:
        points = sweep_lake(
            Lake(settings.lake_folder),
            settings.va_alignment,
            alphas=alphas,
            images_per_clip=pairs,
            candidate_counts=counts,
        )
    except (ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    if csv is not None:
        points.write_csv(csv)
    console().print(table(points.columns, points.rows()))
    best = selected_point(points)
    if best is None:
        click.echo(f"\n{NO_JUDGE.format(1 - points['independent_labels'][0])}")
        return
    click.echo(
        f"\nLabels, which T does not see, fit best with {best['rescaling']}, α = {best['alpha']:g}, "
        f"m = {best['images_per_clip']}, K = {best['candidates']}: {best['label_precision']:.3f}"
    )
