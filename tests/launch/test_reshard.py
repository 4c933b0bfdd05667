"""A run cut for other workers is the same run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mdr_dist.checkpoint.look import checkpoints_in
from mdr_dist.launch.process import group_of_one
from support.command import mdr, refused
from support.jobs import same_bits, small_job, train, weights


def test_a_run_that_was_stopped_goes_on_from_other_shares(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = small_job("crocodile", dataset, train={"epochs": 1})
    with group_of_one():
        whole = train(job, str(tmp_path / "whole"))
    with group_of_one():
        run = train(job, str(tmp_path / "stopped"), stop_at=7)
    out = tmp_path / "cut" / job.name
    command = ("checkpoint", "reshard", run, out, "--workers", "2", "--set", "tables.placement=row_wise")
    assert mdr(monkeypatch, *command) == 0
    (told,) = checkpoints_in(str(out))
    assert told["workers"] == 2 and told["number"] == 7
    assert len(list(out.glob("lanes/main/checkpoints/000007/*.distcp"))) == 2
    assert yaml.safe_load((out / "job.yaml").read_text())["tables"]["placement"] == "row_wise"
    assert same_bits(weights(str(out), job), weights(run, job))
    before, after = (
        json.loads((Path(f) / "lanes/main/checkpoints/000007/progress.json").read_text()) for f in (run, out)
    )
    assert after == {**before, "world": 2}
    capsys.readouterr()
    assert "the folder is not empty" in refused(monkeypatch, capsys, *command)
    with group_of_one():
        assert same_bits(weights(train(job, str(tmp_path / "cut")), job), weights(whole, job))


def test_what_cannot_be(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = small_job("shared_bottom", dataset, train={"epochs": 1})
    with group_of_one():
        run = train(job, str(tmp_path))
    for arguments, says in (
        ((tmp_path / "other",), f"end it with {job.name}"),
        ((tmp_path / "a" / job.name, "--set", "train.seed=3"), "only tables.* can change"),
        ((tmp_path / "a" / job.name, "--set", "tables.placement=everywhere"), "tables.placement"),
    ):
        assert says in refused(monkeypatch, capsys, "checkpoint", "reshard", run, *arguments, "--workers", "2")
    assert "not a run" in refused(
        monkeypatch, capsys, "checkpoint", "reshard", tmp_path, tmp_path / "x", "--workers", "2"
    )
    assert not (tmp_path / "a").exists()
