"""The commands `mdr checkpoint …`: what a run has saved, whether it is whole, and the same in other shares."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(no_args_is_help=True)
out = Console(soft_wrap=True)
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, local or s3://.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _about() -> None:
    """Look at a run's checkpoints, or check that they are whole."""


@app.command()
def inspect(run: Run, *, as_json: Json = False) -> None:
    """Show every checkpoint: where it stood, how many workers wrote it, its size and tables."""
    from mdr_dist.checkpoint.look import checkpoints_in

    found = checkpoints_in(run)
    if as_json:
        out.print_json(data=found)
        return
    table = Table("lane", "number", "stage", "epoch", "step", "workers", "files", "MB", "tables")
    for each in found:
        tables = ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in each["tables"].items())
        place = (str(each[key]) for key in ("number", "stage", "epoch", "step", "workers", "files"))
        table.add_row(each["lane"], *place, f"{each['bytes'] / 2**20:,.1f}", tables)
    out.print(table)


@app.command()
def reshard(
    run: Run,
    path: Annotated[str, typer.Argument(metavar="OUT", help="The new run's folder, of the run's name.")],
    *,
    workers: Annotated[int, typer.Option(min=1, help="As so many workers would have saved it.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="Lay tables.key=value over the job.")] = None,
) -> None:
    """Write a run anew, its newest checkpoints cut for another number of workers or another placement."""
    from mdr_dist.launch.reshard import reshard as run_reshard

    run_reshard(run, path, workers=workers, settings=tuple(settings or ()))
    inspect(path)


@app.command()
def verify(run: Run, *, as_json: Json = False) -> None:
    """Read every file of every checkpoint and compare it with what was written; exit code 2 if one is not that."""
    from mdr_dist.checkpoint.look import verified

    found = verified(run)
    if as_json:
        out.print_json(data=found)
        return
    for each in found:
        said = f"{each['bytes'] / 2**20:,.1f} MB as written" if each["bytes"] else "no sums to compare with"
        out.print(f"{each['lane']} {each['number']:06d}: {said}")
