"""The command `mdr`. Heavy imports happen inside the commands, so that `mdr --help` answers at once."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from mdr_dist import cli_checkpoint, cli_submit
from mdr_dist.errors import Fault, Stopped, UserError
from mdr_dist.redact import redacted

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(cli_submit.app, name="submit")
app.add_typer(cli_checkpoint.app, name="checkpoint")
out = Console(soft_wrap=True)

Settings = Annotated[list[str] | None, typer.Option("--set", help="Lay key.path=value over the file; may repeat.")]


@app.callback()
def _about() -> None:
    """Distributed training for multi-domain and cross-domain recommendation."""


@app.command()
def synth(  # noqa: PLR0913
    path: Annotated[str, typer.Argument(metavar="OUT", help="The new data set's folder.")],
    preset: Annotated[
        str,
        typer.Option(help="tiny, conflicting, large: labels; shared-specific, paper, drift: interactions; reviews."),
    ] = "conflicting",
    users: Annotated[int | None, typer.Option(help="Users.")] = None,
    items: Annotated[int | None, typer.Option(help="Items of a domain.")] = None,
    domains: Annotated[int | None, typer.Option(help="Domains.")] = None,
    rows: Annotated[int | None, typer.Option(help="Training rows over all domains.")] = None,
    periods: Annotated[int | None, typer.Option(help="Periods of a preset that drifts.")] = None,
    scale: Annotated[float | None, typer.Option(help="Share of a preset's interactions.")] = None,
    features: Annotated[int | None, typer.Option(help="Id features beside the domain.")] = None,
    conflict: Annotated[float | None, typer.Option(help="How far tastes oppose between domains, 0 to 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.")] = None,
    settings: Settings = None,
) -> None:  # budget: one parameter a flag
    """Make a data set with planted structure, of which the best possible AUC, NDCG or squared error is known."""
    from mdr_dist.data.synthetic import configure, synthesize

    named = {"users": users, "items": items, "domains": domains, "rows": rows, "scale": scale}
    named |= {"periods": periods, "features": features, "conflict": conflict, "seed": seed}
    flags = tuple(f"{key}={value}" for key, value in named.items() if value is not None)
    synthesize(path, configure(preset, flags + tuple(settings or ())))
    _show_rows(path)


@app.command()
def prepare(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe: jobs/<dataset>/prepare.yaml.")],
    path: Annotated[str, typer.Argument(metavar="OUT", help="The new data set's folder.")],
    *,
    raw: Annotated[str, typer.Option(help="Folder of the raw files; else $MDR_DATA/<dataset>.")] = "",
    workers: Annotated[int, typer.Option(help="Ray workers; 0: in this process.")] = 0,
    grow: Annotated[str, typer.Option(metavar="OLD", help="A data set of fewer rows, whose ids stay.")] = "",
    settings: Settings = None,
) -> None:
    """Turn raw logs into a data set."""
    from mdr_dist.data.prepare import prepare as run_prepare

    run_prepare(recipe, path, raw=raw, workers=workers, grow=grow, settings=tuple(settings or ()))
    _show_rows(path)


@app.command()
def inspect(path: Annotated[str, typer.Argument(metavar="DATASET")]) -> None:
    """Show what a data set holds, and check that its shards are whole."""
    from mdr_dist.data.inspect import inspect as run_inspect

    out.print_json(data=run_inspect(path))


@app.command()
def plan(
    job: Annotated[str, typer.Argument(metavar="JOB.yaml")],
    *,
    settings: Settings = None,
    world_size: Annotated[int, typer.Option(help="Workers to plan for.")] = 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option()] = "cpu",
    hbm_gb: Annotated[float, typer.Option(help="Memory for tables on each device, GB; 0: not limited.")] = 0,
) -> None:
    """Show stages, lanes, table placement and memory. Starts nothing."""
    from mdr_dist.config import load_job
    from mdr_dist.train.run import check

    loaded = load_job(job, tuple(settings or ()) + ((f"tables.device_gb={hbm_gb}",) if hbm_gb else ()))
    value = check(loaded).to_json(loaded, workers=world_size, device=device)
    stages = Table("stage", "lane", "needs", "trains")
    for stage in value["stages"]:
        stages.add_row(stage["name"], stage["lane"], ", ".join(stage["needs"]), ", ".join(stage["train"]))
    tables = Table("table", "rows", "dim", "placement", "rank", "MB a worker")
    for row in value["tables"]:
        rank = "all" if row["rank"] < 0 else str(row["rank"])
        size = f"{row['bytes_per_worker'] / 2**20:,.1f}"
        tables.add_row(row["table"], f"{row['rows']:,}", str(row["dim"]), row["placement"], rank, size)
    out.print(stages, tables)
    whole = sum(row["weight_bytes"] + row["optimizer_bytes"] for row in value["tables"]) / 2**20
    out.print(f"tables with optimizer state: {whole:,.1f} MB; dense parameters: {value['dense_parameters']:,}")


@app.command()
def train(
    job: Annotated[str, typer.Argument(metavar="JOB.yaml")],
    *,
    settings: Settings = None,
    runs: Annotated[str, typer.Option(help="Folder of runs, local or s3://.")] = "",
    workers: Annotated[int, typer.Option(help="Ray Train workers; 0: in this process.")] = -1,
    address: Annotated[str, typer.Option(help="An existing Ray cluster.")] = "",
    quiet: Annotated[bool, typer.Option(help="Print only the result.")] = False,
) -> None:
    """Train a job: in this process, or on Ray with --workers or --address. The same command resumes."""
    from mdr_dist.config import load_job

    over = (f"launch.workers={workers}",) if workers >= 0 else ()
    loaded = load_job(job, tuple(settings or ()) + over)
    if address and not loaded.launch.workers:
        raise UserError("--address: say also how many --workers (or launch.workers in the job)")
    where = runs or loaded.launch.storage
    echo = None if quiet else _echo
    run, metrics = _launch(loaded, where, address=address, echo=echo)
    _show_metrics(metrics["test"], title=f"{metrics['method']} on {metrics['dataset']}, test")
    out.print(f"run: {run}")


def _launch(job: Any, runs: str, *, address: str, echo: Any) -> tuple[str, dict[str, Any]]:
    if job.launch.workers:
        if not address:
            # read when ray is imported: without it a Ray of our own listens on every interface, not on loopback alone
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        from mdr_dist.launch.local import train_on_ray

        return train_on_ray(job, runs, address=address, echo=echo)
    from mdr_dist.launch.process import train_here

    return train_here(job, runs, echo=echo)


@app.command()
def status(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    *,
    seconds: Annotated[float, typer.Option("--watch", min=0, help="Show it anew every so many seconds.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where a run and its lanes stand; with --watch until it is finished, failed or stopped."""
    from mdr_dist.launch.status import status_of
    from mdr_dist.watch import shown, watch

    if seconds and not as_json:
        watch(run, seconds=seconds, console=Console())
    elif as_json:
        out.print_json(data=status_of(run))
    else:
        out.print(shown(status_of(run)))


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or an export.")],
    *,
    dataset: Annotated[str, typer.Option(help="Another data set with the same schema.")] = "",
    split: Annotated[str, typer.Option()] = "test",
    settings: Annotated[list[str] | None, typer.Option("--set", help="Lay eval.key=value over the job.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a run's newest checkpoint, or an export, on a split."""
    from mdr_dist.checkpoint.export import is_export
    from mdr_dist.launch.process import evaluate_export, evaluate_run

    measure = evaluate_export if is_export(run) else evaluate_run
    metrics = measure(run, dataset=dataset, split=split, settings=tuple(settings or ()))
    if as_json:
        out.print_json(data=metrics)
    else:
        _show_metrics(metrics, title=f"{run}, {split}")


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...")],
    *,
    metrics: Annotated[str, typer.Option(help="Comma-separated; else auc,gauc, recall@10,ndcg@10 or mse,mae.")] = "",
    form: Annotated[Literal["table", "markdown", "csv", "json"], typer.Option("--format")] = "table",
    against: Annotated[str, typer.Option(help="A run: show by how much the others beat it, user by user.")] = "",
) -> None:
    """Put the results of runs side by side."""
    from mdr_dist.compare import read_results, rendered, rendered_gains, usual_metrics

    results = read_results(tuple(runs))
    names = tuple(metrics.split(",")) if metrics else usual_metrics(results)
    if against:
        shown = rendered_gains(tuple(runs), against, metrics=names, form=form)
    else:
        shown = rendered(results, names, form)
    if isinstance(shown, str):
        typer.echo(shown)
    else:
        out.print(shown)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    path: Annotated[str, typer.Argument(metavar="OUT", help="The new export's folder.")],
    form: Annotated[Literal["safetensors", "parquet", "checkpoint"], typer.Option("--format")] = "safetensors",
) -> None:
    """Write a run's newest checkpoint as files that need neither this package nor a pickle to read."""
    from mdr_dist.launch.process import export_run

    manifest = export_run(run, path, form=form)
    out.print(f"export: {path}  ({len(manifest['tables'])} tables, {manifest['bytes']:,} bytes)")


def _show_metrics(metrics: dict[str, dict[str, Any]], *, title: str) -> None:
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    if any("@" in name for name in names):  # too many for columns
        _show_ranking(metrics, [name for name in names if not name.startswith("random/")], title=title)
        return
    table = Table("domain", *names, title=title)
    for domain, values in metrics.items():
        table.add_row(domain, *(_cell(values.get(name)) for name in names))
    out.print(table)


def _show_ranking(metrics: dict[str, dict[str, Any]], names: list[str], *, title: str) -> None:
    table = Table("", *metrics, title=f"{title} (in brackets: a random order)")
    for name in names:
        found = [(values.get(name), values.get(f"random/{name}")) for values in metrics.values()]
        cells = [_cell(own) + (f" ({_cell(random)})" if random is not None else "") for own, random in found]
        table.add_row(name, *cells)
    out.print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _show_rows(path: str) -> None:
    from mdr_dist.data.layout import read_schema

    schema = read_schema(path)
    table = Table("domain", *schema.rows, title=f"{schema.name}: rows by domain and split")
    for domain in schema.domains:
        table.add_row(domain, *(f"{rows.get(domain, 0):,}" for rows in schema.rows.values()))
    out.print(table)
    out.print(f"data set: {path}  (what was kept and dropped: {path}/report.json)")


def _echo(line: str) -> None:
    out.print(redacted(line), markup=False, highlight=False)


def main() -> None:
    """Run the command line; the exit code is 0 done, 2 the input is wrong, 1 a fault of ours."""
    try:
        app()
    except UserError as error:
        typer.echo(f"mdr: error: {redacted(str(error))}", err=True)
        sys.exit(2)
    except Fault as fault:
        typer.echo(f"mdr: fault: {redacted(str(fault))}", err=True)
        sys.exit(1)
    except Stopped as stopped:
        typer.echo(f"mdr: {stopped}", err=True)
        sys.exit(143)  # 128 + SIGTERM
    except Exception:
        typer.echo(redacted(traceback.format_exc()), err=True, nl=False)
        sys.exit(1)
