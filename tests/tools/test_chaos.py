"""Runs that are broken on purpose: a few trials, and that what is wrong would be told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from chaos import draw
from chaos_work import sound

TOOLS = Path(__file__).parents[2] / "tools"
SMOKE = (0, 3, 4, 5, 7, 12)  # a worker on Ray, an export, a rewrite of tables, prepare, half a save, a signal


def test_few_trials_meet_every_moment_and_fault() -> None:
    trials = list(draw(60, 0))
    assert trials == list(draw(60, 0)) and trials != list(draw(60, 1))
    assert {trial.moment for trial in trials} == {"step", "save", "evaluation", "export", "rewrite", "prepare"}
    faults = {trial.fault for trial in trials}
    assert faults == {"kill", "kill driver", "stop driver", "full disk", "truncated shard", "kill raylet"}
    assert all(trial.workers for trial in trials if trial.fault == "kill raylet")


def test_a_checkpoint_that_only_says_it_is_done_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "chaos" / "lanes" / "main" / "checkpoints" / "000010"
    folder.mkdir(parents=True)
    (folder / ".metadata").write_bytes(b"half")
    assert not sound(tmp_path)
    (folder / "DONE").touch()
    assert sound(tmp_path).startswith("000010 says it is done and does not load: UnpicklingError")


@pytest.mark.slow
def test_runs_that_are_broken_come_to_the_same() -> None:
    command = [sys.executable, str(TOOLS / "chaos.py"), "--trials", "100", "--only", *map(str, SMOKE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "6 trials: 6 the same, 0 wrong; 0 without their moment" in done.stdout
