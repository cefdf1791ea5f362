"""`infprune data`: which training samples matter, and training on those that do; one command per file."""

import typer

from infprune.cli.data import curve, inspect, prune, score

app = typer.Typer(help="Score training samples, keep those that matter, look at them.", no_args_is_help=True)
app.command("score")(score.score)
app.command("prune")(prune.prune)
app.command("curve")(curve.curve)
app.command("inspect")(inspect.inspect)
