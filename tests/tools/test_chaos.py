"""Runs that are broken on purpose: a few trials, and that what is wrong would be told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from chaos import Outcome, read, tell
from chaos_trials import draw
from chaos_work import sound

TOOLS = Path(__file__).parents[2] / "tools"
SMOKE = (3, 5, 7, 10, 12, 30)  # an export after Ray, prepare, half a save, a rewrite of tables, a signal, a storm on S3


def test_few_trials_meet_every_moment_and_fault() -> None:
    trials = list(draw(60, 0))
    assert trials == list(draw(60, 0)) and trials != list(draw(60, 1))
    assert {trial.moment for trial in trials} == {"step", "save", "evaluation", "export", "rewrite", "prepare"}
    faults = {trial.fault for trial in trials}
    assert faults == {"kill", "kill driver", "stop driver", "full disk", "truncated shard", "kill raylet", "S3 500s"}
    assert {trial.store for trial in trials if trial.fault == "S3 500s"} == {"S3"}
    assert all(trial.workers for trial in trials if trial.fault == "kill raylet")


def test_a_checkpoint_that_only_says_it_is_done_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "chaos" / "lanes" / "main" / "checkpoints" / "000010"
    folder.mkdir(parents=True)
    (folder / ".metadata").write_bytes(b"half")
    assert not sound(tmp_path)
    (folder / "DONE").touch()
    assert sound(tmp_path).startswith("000010 says it is done and does not load: UnpicklingError")


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    first, second = draw(2, 0)
    outcomes = [Outcome(first, 2, fired=True, wrong="", recovery=1.5), Outcome(second, 1, False, "hangs", None)]
    for outcome in outcomes:
        tell(outcome, tmp_path / "log.jsonl")
    assert read(tmp_path / "log.jsonl") == dict(zip((first, second), outcomes, strict=True))


@pytest.mark.slow
def test_runs_that_are_broken_come_to_the_same() -> None:
    command = [sys.executable, str(TOOLS / "chaos.py"), "--trials", "100", "--only", *map(str, SMOKE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "6 trials: 6 the same, 0 wrong; 0 without their moment" in done.stdout
