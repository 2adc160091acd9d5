"""The command `emid tune`: hyperparameters of a network by a resumable study."""

import json
from functools import partial
from typing import Any

import click

from emid_assets.adapters import NETWORKS
from emid_assets.cli.options import SettingsCommand, settings_from, settings_options


@click.command("tune", cls=SettingsCommand)
@click.argument("network", type=click.Choice(list(NETWORKS)))
@click.option(
    "--trials", type=click.IntRange(1), default=30, show_default=True,
    help="Finished trials in total; those of earlier calls count.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@settings_options
def tune_command(network: str, trials: int, as_json: bool, **options: Any) -> None:
    """Search the hyperparameters of NETWORK.

    Trials are scored on the validation part; the next build trains with the best. A stopped search is
    resumed by the next call.
    """
    from emid_assets.adapters.tuning import best_trial, own_trial, tune_lake
    from emid_assets.runs.progress_lines import ProgressLines

    lines = ProgressLines(partial(click.echo, err=True))

    def on_trial(done: int, best: float | None) -> None:
        lines.end(f"{done} of {trials} trials, best NDCG@10 {best or 0.0:.4f}")
        lines.begin(f"trial {done + 1} of {network}")

    settings = settings_from(options)
    try:
        with lines:
            lines.begin(f"first trial of {network}")
            rows = tune_lake(settings, network, trials, on_trial)
    except (ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    best, own = best_trial(rows), own_trial(network, rows)
    if best is None:
        raise click.ClickException(
            f"no trial of {network} is complete: the loss of each was not finite; check the pairs, or try "
            "more with --trials"
        )
    of_own = None if own is None else own["ndcg_at_10"]
    values = json.loads(best["hyperparameters"])
    if as_json:
        found = {"network": network, "trial": best["trial"], "ndcg_at_10": best["ndcg_at_10"]}
        defaults = {"ndcg_at_10_of_defaults": of_own, "hyperparameters": values}
        click.echo(json.dumps(found | defaults, indent=1))
        return
    beside = "the network's own fail" if of_own is None else f"{of_own:.4f} with the network's own values"
    click.echo(
        f"{network}: NDCG@10 {best['ndcg_at_10']:.4f} on the validation part in trial {best['trial']} "
        f"({beside})"
    )
    for name, value in values.items():
        click.echo(f"  {name:<16} {value:.4g}")
    click.echo(
        "`emid build` trains with these values where its pairs, seed, epochs and dimension are those of this "
        "study; its report plots the study."
    )
