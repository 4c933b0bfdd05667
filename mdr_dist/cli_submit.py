"""The commands `mdr submit …`: a job on a cluster that is somewhere else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from mdr_dist.errors import UserError
from mdr_dist.redact import redacted

if TYPE_CHECKING:
    from mdr_dist.launch.submit import Attempt, Cluster

FOLLOWING = "mdr submit logs --follow"
out = Console(soft_wrap=True)


class _JobFirst(TyperGroup):
    """`mdr submit JOB.yaml` means `mdr submit job JOB.yaml`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if not args or args[0] in known else ["job", *args])


app = typer.Typer(no_args_is_help=True, cls=_JobFirst)
Address = Annotated[
    str, typer.Option(help="The cluster's dashboard, http://HEAD:8265; else $RAY_API_SERVER_ADDRESS or $RAY_ADDRESS.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A run's name, of which the newest attempt; or NAME@N.")]


@app.callback()
def _about() -> None:
    """Run a job on a Ray cluster: mdr submit JOB.yaml --address http://HEAD:8265 (options: mdr submit job --help)."""


@app.command()
def job(
    path: Annotated[str, typer.Argument(metavar="JOB.yaml")],
    *,
    address: Address = "",
    settings: Annotated[list[str] | None, typer.Option("--set", help="Lay key.path=value over the file.")] = None,
    runs: Annotated[str, typer.Option(help="Folder of runs that every node reaches, s3:// or shared.")] = "",
    workers: Annotated[int | None, typer.Option(min=1, help="Workers; else launch.workers, at least 1.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="Pass this variable of the environment; may repeat.")] = None,
    credentials: Annotated[bool, typer.Option(help="Pass AWS_* to a job on s3://; or nodes have their own.")] = True,
    follow: Annotated[bool, typer.Option(help="Show the log until the end and exit as the job does.")] = True,
) -> None:
    """Submit a job, show its log and exit as it does. Submitted again, a run goes on."""
    from mdr_dist.config import load_job
    from mdr_dist.launch.package import prepared
    from mdr_dist.launch.submit import passed

    over = (f"launch.workers={workers}",) if workers else ()
    ready = prepared(load_job(path, tuple(settings or ()) + over), runs)
    variables = passed(ready, tuple(env or ()), credentials=credentials)
    cluster = _cluster(address)
    attempt = cluster.submit(ready, variables=variables)
    _say(f"submitted: {attempt.id} to {cluster.address}  (run: {ready.launch.storage}/{ready.name})")
    if variables:
        _say(f"passed, and to be read by whoever reaches the cluster's dashboard: {', '.join(variables)}")
    if follow:
        _follow(cluster, attempt)
    else:
        _say(f"follow it: {FOLLOWING} {attempt.name} --address {cluster.address}")


@app.command()
def status(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A run's name; else all runs.")] = "",
    *,
    address: Address = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the attempts at a run, or at all that were submitted to the cluster."""
    cluster = _cluster(address)
    run = cluster.find(name).name if name else ""
    attempts = cluster.attempts(run)
    if as_json:
        out.print_json(data=[asdict(attempt) for attempt in attempts])
        return
    table = Table("attempt", "state", "exit code", "started", "ended", title=redacted(cluster.address))
    for each in attempts:
        code = "-" if each.code is None else str(each.code)
        table.add_row(each.id, each.state, code, _clock(each.started), _clock(each.ended))
    out.print(table)


@app.command()
def logs(
    name: Name,
    *,
    address: Address = "",
    follow: Annotated[bool, typer.Option("--follow", help="Until the end, and exit as the job does.")] = False,
) -> None:
    """Print what a job has said so far."""
    cluster = _cluster(address)
    attempt = cluster.find(name)
    if follow:
        _follow(cluster, attempt)
    else:
        _say(cluster.log(attempt), nl=False)


@app.command()
def stop(name: Name, *, address: Address = "") -> None:
    """End a job. Submitted again, its run goes on from the newest checkpoint."""
    cluster = _cluster(address)
    attempt = cluster.stop(cluster.find(name))
    _say(f"{attempt.id} {attempt.state}")


def _cluster(address: str) -> Cluster:
    from mdr_dist.launch.submit import Cluster, exposure

    usual = (os.environ.get(name, "") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
    found = address or next((each for each in usual if each.startswith("http")), "")
    if not found:
        raise UserError(
            "--address: say where the cluster's dashboard is: http://HEAD:8265, or set RAY_API_SERVER_ADDRESS"
        )
    if warning := exposure(found):
        _say(f"mdr: warning: {warning}", err=True)
    return Cluster(found)


def _follow(cluster: Cluster, attempt: Attempt) -> None:
    """Show an attempt's log until it ends, and exit as it did."""
    from mdr_dist.launch.submit import exit_code, reason

    with _left_running(cluster, attempt):
        attempt = cluster.follow(attempt, typer.echo)
    if why := reason(attempt):
        _say(f"mdr: fault: {attempt.id}: {why}", err=True)
    if attempt.state == "stopped":
        _say(f"mdr: {attempt.id} was stopped; submit it again to go on", err=True)
    if code := exit_code(attempt):
        sys.exit(code)


@contextlib.contextmanager
def _left_running(cluster: Cluster, attempt: Attempt) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        again = f"{FOLLOWING} {attempt.name} --address {cluster.address}"
        _say(f"\nmdr: {attempt.id} goes on without you; follow it again: {again}", err=True)
        sys.exit(130)  # 128 + SIGINT


def _say(text: str, *, err: bool = False, nl: bool = True) -> None:
    typer.echo(redacted(text), err=err, nl=nl)


def _clock(seconds: float | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
