"""The command `emid tune`: hyperparameters of a network by a study that can be gone on with."""

import json
from typing import Any

import click

from emid_assets.adapters import NETWORKS
from emid_assets.cli.options import settings_from, settings_options


@click.command("tune")
@click.argument("network", type=click.Choice(list(NETWORKS)))
@click.option(
    "--trials", type=click.IntRange(1), default=30, show_default=True,
    help="Finished trials in all; those of an earlier call count.",
)  # fmt: skip
@settings_options
def tune_command(network: str, trials: int, **options: Any) -> None:
    """Try hyperparameters of NETWORK on the validation part; the next build trains with the best."""
    from emid_assets.adapters.tuning import best_trial, tune_lake

    def on_trial(done: int, best: float | None) -> None:
        click.echo(f"{done} of {trials} trials, best NDCG@10 {best or 0.0:.4f}", err=True)

    try:
        rows = tune_lake(settings_from(options), network, trials, on_trial)
    except (ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    best = best_trial(rows)
    own = rows.row(0, named=True)
    click.echo(
        f"{network}: NDCG@10 {best['ndcg_at_10']:.4f} on the validation part by trial {best['trial']} "
        f"({own['ndcg_at_10']:.4f} by the network's own values)"
    )
    for name, value in json.loads(best["hyperparameters"]).items():
        click.echo(f"  {name:<16} {value:.4g}")
    click.echo("`emid build` trains with these, and its report plots the study.")
