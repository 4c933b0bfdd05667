"""A run's lanes as a table for a terminal, once or again and again until the run ends."""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mdr_dist.launch.status import status_of

STYLES = {"waiting": "dim", "running": "cyan", "stopped": "yellow", "finished": "green", "failed": "red"}
COLUMNS = ("lane", "after", "workers", "state", "epoch", "step", "losses", "rows/s", "saved")  # saved: at which step
QUIET = 60  # seconds without a report after which it is told how many: whoever trained may be gone
NAMED = 1  # lanes that a lane waits for by name; of more only the number is told


def shown(status: dict[str, Any]) -> Group:
    """What `status_of` found: the run's state, a row a lane in the plan's order, and why it failed."""
    lanes: dict[str, dict[str, Any]] = status["lanes"]
    title = Text.assemble(f"{status['run']}  ", (status["state"], STYLES[status["state"]]))
    quiet = time.time() - (status["reported"] or time.time())
    if status["state"] == "running" and quiet > QUIET:
        title.append(f"  (the last report is {timedelta(seconds=int(quiet))} old)", "yellow")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in COLUMNS:  # where it is narrow, losses stand below each other
        if column == "losses":
            table.add_column(column, min_width=10)
        else:
            table.add_column(column, no_wrap=True)
    for name, lane in lanes.items():
        epoch, step, losses, rate = _progress(name, lane["progress"])
        newest = str(max(lane["checkpoints"], default="-"))
        state = Text(lane["state"], STYLES[lane["state"]])
        waits, workers = _after(lane["after"], lanes), str(lane["workers"])
        table.add_row(Text(name), waits, workers, state, epoch, step, losses, rate, newest)
    parts = [title, *([table] if lanes else []), *([Text(status["error"], "red")] if status["error"] else [])]
    return Group(*parts)


def watch(run: str, *, seconds: float, console: Console) -> None:
    """Show a run anew every so many seconds until it is finished, failed or stopped, or who watches has seen enough."""
    # an interrupt ends the watching, not the run
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        live.update(shown(status := status_of(run)), refresh=True)
        while status["state"] not in ("finished", "failed", "stopped"):
            time.sleep(seconds)
            live.update(shown(status := status_of(run)), refresh=True)


def _progress(lane: str, now: dict[str, Any] | None) -> tuple[Text, str, Text, str]:
    """Epoch, step, losses and rate of a lane's last report; the stage's name where it is not the lane's."""
    if not now:
        return Text("-"), "-", Text("-"), "-"
    stage = "" if now["stage"] == lane else f"{now['stage']} "
    losses = "  ".join(f"{name} {value:.4f}" for name, value in now["losses"].items())
    epochs = f"/{now['epochs']}" if "epochs" in now else ""
    epoch = Text(f"{stage}{now['epoch'] + 1}{epochs}")
    return epoch, f"{now['step']}/{now['steps']}", Text(losses), f"{now['rows_per_second']:,.0f}"


def _after(above: list[str], lanes: dict[str, dict[str, Any]]) -> Text:
    """The lanes that a lane follows directly: those that are not above another of them."""
    direct = [name for name in above if not any(name in lanes[other]["after"] for other in above)]
    return Text(", ".join(direct) or "-") if len(direct) <= NAMED else Text(f"{len(direct)} lanes")
