"""What the table of lanes shows, and when watching it ends."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from mdr_dist import watch as module

NOW = {"stage": "smf-d0", "epoch": 2, "step": 30, "steps": 98, "epochs": 40, "losses": {"bpr": 0.5, "l2": 1.25}}
NOW |= {"rows_per_second": 123456.7}


def lane(state: str, *after: str, progress: Any = None, checkpoints: tuple[int, ...] = ()) -> dict[str, Any]:
    kept = list(checkpoints)
    return {"state": state, "after": list(after), "workers": 1, "progress": progress, "checkpoints": kept}


def status(state: str, /, *, reported: float | None = None, **lanes: dict[str, Any]) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in lanes.items()}
    return {
        "run": "runs/x",
        "state": state,
        "error": "it broke [here]" if state == "failed" else None,
        "lanes": named,
        "reported": reported,
    }


def text(value: dict[str, Any]) -> list[list[str]]:
    """The words of every line."""
    console = Console(file=io.StringIO(), width=200)
    console.print(module.shown(value))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    lines = (line.split() for line in shown.splitlines())
    return [line for line in lines if line and line[0][0] != "─"]


def test_every_lane_in_order_with_its_last_report() -> None:
    first = ("smf-d0", "smf-d1", "smf-d2")
    lines = text(
        status(
            "failed",
            smf_d0=lane("failed", progress=NOW, checkpoints=(196, 294)),
            smf_d1=lane("running", progress={**NOW, "stage": "joint"}),
            smf_d2=lane("waiting"),
            cat=lane("waiting", *first),
            art_d0=lane("waiting", *first, "cat"),
        )
    )
    assert lines[0] == ["runs/x", "failed"]
    assert lines[2:7] == [
        ["smf-d0", "-", "1", "failed", "3/40", "30/98", "bpr", "0.5000", "l2", "1.2500", "123,457", "294"],
        ["smf-d1", "-", "1", "running", "joint", "3/40", "30/98", "bpr", "0.5000", "l2", "1.2500", "123,457", "-"],
        ["smf-d2", "-", "1", "waiting", "-", "-", "-", "-", "-"],
        ["cat", "3", "lanes", "1", "waiting", "-", "-", "-", "-", "-"],
        ["art-d0", "cat", "1", "waiting", "-", "-", "-", "-", "-"],
    ]
    assert lines[7] == ["it", "broke", "[here]"]
    assert text(status("waiting")) == [["runs/x", "waiting"]]


@pytest.mark.parametrize(
    ("state", "age", "told"), [("running", 3725, True), ("running", 9, False), ("failed", 3725, False)]
)
def test_how_long_a_run_has_said_nothing(state: str, age: float, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "time", lambda: 9000.5)
    (line, *_) = text(status(state, reported=9000 - age))
    assert " ".join(line[2:]) == ("(the last report is 1:02:05 old)" if told else "")


@pytest.mark.parametrize("end", ["finished", "failed", "stopped"])
def test_watching_ends_with_the_run(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    states: Iterator[str] = iter(["waiting", "running", end, "never"])
    slept: list[float] = []
    monkeypatch.setattr(module, "status_of", lambda run: status(next(states), main=lane("running")))
    monkeypatch.setattr(module.time, "sleep", slept.append)
    module.watch("runs/x", seconds=2.5, console=Console(file=io.StringIO()))
    assert slept == [2.5, 2.5] and next(states) == "never"


def test_an_interrupt_ends_watching_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "status_of", lambda run: status("running"))
    monkeypatch.setattr(module.time, "sleep", interrupt)
    module.watch("runs/x", seconds=1, console=Console(file=io.StringIO()))
