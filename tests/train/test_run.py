"""What an attempt leaves in the run when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdr_dist import storage
from mdr_dist.errors import Fault, Stopped, UserError
from mdr_dist.train.attempt import attempt, raise_error, write_error


def left(run: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in run.iterdir()}


def test_a_fault_keeps_its_traceback_until_the_next_attempt(tmp_path: Path) -> None:
    with pytest.raises(Fault) as caught, attempt(str(tmp_path)):
        raise ZeroDivisionError("first line\nsecond line")
    path = tmp_path / "error.txt"
    assert str(caught.value) == f"ZeroDivisionError: first line; the traceback is in {path}"
    assert list(left(tmp_path)) == ["error.txt"]
    assert path.read_text().startswith("Traceback")
    assert path.read_text().endswith("ZeroDivisionError: first line\nsecond line\n")
    with attempt(str(tmp_path)):
        assert left(tmp_path) == {}
    assert left(tmp_path) == {}


def test_a_user_error_is_written_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "error.txt").write_text("of the attempt before")
    with pytest.raises(UserError, match=r"^shard 3 is gone$"), attempt(str(tmp_path)):
        raise UserError("shard 3 is gone")
    assert storage.read_json(str(tmp_path / "error.json")) == {"error": "shard 3 is gone"}
    assert list(left(tmp_path)) == ["error.json"]


def test_what_a_worker_left_is_raised_again_and_stays(tmp_path: Path) -> None:
    run = str(tmp_path)
    raise_error(run)  # nothing
    with pytest.raises(UserError, match=r"^shard 3 is gone$"), attempt(run):
        write_error(run, UserError("shard 3 is gone"), lane="smf-d0")
        write_error(run, UserError("shard 4 is gone"), lane="smf-d1")  # at the same time: the first is kept
        raise_error(run)
    assert storage.read_json(f"{run}/error.json") == {"error": "shard 3 is gone", "lane": "smf-d0"}
    with pytest.raises(Fault, match=r"^FloatingPointError: loss 'bpr' is nan; the traceback is in "), attempt(run):
        try:
            raise FloatingPointError("loss 'bpr' is nan")
        except FloatingPointError as error:
            write_error(run, error, lane="smf-d1")
        raise_error(run)
    text = (tmp_path / "error.txt").read_text()
    assert "in lane smf-d1:" in text and "raise FloatingPointError(" in text
    assert text.endswith("FloatingPointError: loss 'bpr' is nan\n")
    assert storage.read_json(f"{run}/error.json")["lane"] == "smf-d1"


@pytest.mark.parametrize("end", [Stopped("stopped at step 3"), KeyboardInterrupt()])
def test_who_asks_a_run_to_end_finds_no_error_there(end: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(end)), attempt(str(tmp_path)):
        raise end
    assert left(tmp_path) == {"STOPPED": ""}
    with attempt(str(tmp_path)):
        assert left(tmp_path) == {}
