"""Where a run stands, of folders written file by file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdr_dist import storage
from mdr_dist.launch.status import status_of

NOW = {
    "time": 99.5,
    "stage": "s",
    "epoch": 0,
    "step": 3,
    "steps": 9,
    "epochs": 2,
    "losses": {"bpr": 0.5},
    "rows_per_second": 10.0,
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three lanes: `a` has finished, `b` has told something, `c` waits for both."""
    plan = [{"name": n, "after": list(above), "workers": 1} for n, above in (("a", ""), ("b", ""), ("c", "ab"))]
    write(tmp_path, {"job.yaml": {}, "plan.json": {"lanes": plan}})
    write(tmp_path / "lanes" / "a", {"progress.json": NOW, "result.json": {}, "checkpoints/000009/DONE": {}})
    write(tmp_path / "lanes" / "b", {"progress.json": NOW, "checkpoints/000003/progress.json": {}})
    return tmp_path


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, value in files.items():
        storage.write_json(str(folder / name), value)


def states(run: Path) -> list[str]:
    status = status_of(str(run))
    return [status["state"], *(lane["state"] for lane in status["lanes"].values())]


def test_lanes_and_their_reports(run: Path) -> None:
    assert states(run) == ["running", "finished", "running", "waiting"]
    status = status_of(str(run))
    assert (status["error"], status["test"], status["lanes"]["b"]["progress"]) == (None, None, NOW)
    assert [lane["checkpoints"] for lane in status["lanes"].values()] == [[9], [], []]
    (run / "lanes" / "c").mkdir()
    (run / "lanes" / "c" / "events.jsonl").touch()  # it has begun, and reported nothing yet
    assert states(run) == ["running", "finished", "running", "running"]
    write(run, {"metrics.json": {"test": {"macro": {}}}})
    assert states(run)[0] == "finished" and status_of(str(run))["test"] == {"macro": {}}


@pytest.mark.parametrize("name", ["plan.json", "metrics.json", "error.json", "lanes/b/progress.json"])
@pytest.mark.parametrize("text", ["", '{"stage": "s", "ep', "[1]"])
def test_half_written_files_are_no_files(name: str, text: str, run: Path) -> None:
    (run / name).write_text(text)
    status = status_of(str(run))
    if name == "lanes/b/progress.json":
        assert (status["lanes"]["b"]["state"], status["lanes"]["b"]["progress"]) == ("running", None)
    elif name == "plan.json":
        assert (status["state"], status["lanes"]) == ("waiting", {})
    else:
        assert status["state"] == ("failed" if name == "error.json" else "running")


def test_a_run_that_was_asked_to_end(run: Path) -> None:
    (run / "STOPPED").touch()
    assert states(run) == ["stopped", "finished", "stopped", "waiting"]


def test_when_a_lane_last_reported(run: Path) -> None:

    write(run / "lanes" / "a", {"progress.json": {**NOW, "time": 98.5}})
    assert status_of(str(run))["reported"] == 99.5
    for lane in "ab":
        (run / "lanes" / lane / "progress.json").unlink()
    assert status_of(str(run))["reported"] is None


def test_the_lane_that_failed(run: Path) -> None:
    """The worker says which; where it could not, those that have begun and are not done."""
    write(run / "lanes" / "c", {"progress.json": NOW})
    (run / "error.txt").write_text("Traceback\n  somewhere\nValueError: no\n\n")
    assert states(run) == ["failed", "finished", "failed", "failed"]
    assert status_of(str(run))["error"] == "ValueError: no"
    write(run, {"error.json": {"error": "shard 3 is gone", "lane": "c"}})
    assert states(run) == ["failed", "finished", "running", "failed"]
    assert status_of(str(run))["error"] == "shard 3 is gone"
