"""Versions of a submitter and a node, and the program that compares them on the cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from mdr_dist.launch.versions import differences, versions

ROOT = Path(__file__).parents[2]


def test_those_of_this_machine() -> None:
    found = versions()
    assert found["Python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found["torch"] == version("torch").split("+")[0]
    assert found["ray"] == version("ray")
    assert set(found) == {"Python", "torch", "torchrec", "fbgemm", "ray"} and "none" not in found.values()


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({}, ""),
        ({"torch": "2.12.0"}, "torch 2.13.0 here, 2.12.0 there"),
        ({"torch": "2.12.0", "ray": "none"}, "torch 2.13.0 here, 2.12.0 there; ray 2.60.0 here, none there"),
        ({"more": "1"}, ""),
    ],
)
def test_differences(there: dict[str, str], says: str) -> None:
    here = {"Python": "3.11", "torch": "2.13.0", "ray": "2.60.0"}
    assert differences(here, here | there) == says


def test_one_that_is_not_told_differs() -> None:
    assert differences({"Python": "3.11", "ray": "2.60.0"}, {"Python": "3.11"}) == "ray 2.60.0 here, none there"


def compared(folder: Path, told: dict[str, str]) -> tuple[int, str]:
    (folder / "versions.json").write_text(json.dumps(told))
    command = [sys.executable, "-m", "mdr_dist.launch.versions"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_program(tmp_path: Path) -> None:
    assert compared(tmp_path, versions()) == (0, "")
    code, said = compared(tmp_path, versions() | {"torch": "1.0.0"})
    assert code == 2
    (line,) = said.splitlines()
    assert line.startswith("mdr: error: versions differ between node ")
    assert line.endswith("1.0.0 there; install the same on both")


def test_it_needs_nothing_that_may_be_missing(tmp_path: Path) -> None:
    """On a machine with a bare Python it says so, by its one line."""
    (tmp_path / "versions.json").write_text(json.dumps(versions()))
    command = [sys.executable, "-S", "-m", "mdr_dist.launch.versions"]  # without site-packages
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"torch none here, {versions()['torch']} there" in done.stderr and "Traceback" not in done.stderr
