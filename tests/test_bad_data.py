"""Data that a job cannot be run on: told by `mdr plan` and `mdr train` alike, in one line, before anything starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mdr_dist import storage
from mdr_dist.checkpoint.lanes import Outputs
from mdr_dist.launch.process import group_of_one
from mdr_dist.train.run import check
from support.command import mdr, refused
from support.groups import in_group
from support.jobs import largest_gap, losses, same_bits, small_job, train, weights
from support.retrieval import DOMAINS, Row, write_log

FEW = {"ks": [2]}


def log(*, common: int = 12, films: int = 20) -> Iterable[Row]:
    """12 users a domain with ten rows each, `common` of them the same; `films` is the number of films."""
    for place, domain in enumerate(DOMAINS):
        for user in range(1, 13):
            own = user + (20 * place if user > common else 0)
            for split, start, rows in (("train", 0, 6), ("val", 6, 2), ("test", 8, 2)):
                for turn in range(start, start + rows):
                    yield Row(split, domain, own, 1 + (3 * user + turn) % (films if place else 20))


def written(tmp_path: Path, *settings: str, method: str = "cat_art", **changes: int) -> tuple[Path, list[str]]:
    """A job of that method on such a log, and the flags of the settings."""
    write_log(str(tmp_path / "log"), log(**changes))
    job = small_job(method, str(tmp_path / "log"), data={"batch": 16}, eval=FEW, train={"epochs": 2})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    return tmp_path / "job.yaml", [part for setting in settings for part in ("--set", setting)]


COMMON = "in common with the other domains in the train split of data set {log}; transfer needs two at least"
NONE = "train.eval_epochs: 0 means no evaluation while stage "


@pytest.mark.parametrize(
    ("changes", "settings", "says"),
    [
        ({"common": 1}, [], f"domain books has one user alone {COMMON}: set data.domains to other domains"),
        ({"common": 0}, [], f"domain books has no user {COMMON}"),
        ({}, ["data.domains=[films]"], "{log}: domain films alone has nothing to transfer from; set data.domains to"),
        ({"films": 1}, [], "domain films has one item alone in the train split of data set {log}; negatives need two"),
        ({"films": 4}, ["eval.ks=[2,5]"], "eval.ks: 5 exceeds the catalogue of domain films, 4 items in the train "),
        (
            {},
            ["eval.sampled=3", "eval.ks=[2,4]"],
            "eval.ks: a list of 4 holds all 3 candidates that eval.sampled draws",
        ),
        ({}, ["train.eval_epochs=0"], f"{NONE}'smf-books' trains, which is to end after 3 of them"),
        ({}, ["train.eval_epochs=0", "method.patience=0"], "after 2 of them without a gain (method cat_art, its pati"),
    ],
)
def test_refused_before_anything_starts(
    changes: dict[str, int], settings: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    job, flags = written(tmp_path, *settings, **changes)
    for command in (("plan", job), ("train", job, "--runs", tmp_path / "runs")):
        assert says.format(log=tmp_path / "log") in refused(monkeypatch, capsys, *command, *flags)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"common": 2}, []),
        ({"films": 2}, ["eval.ks=[2]"]),
        ({"films": 5}, ["eval.ks=[2,5]"]),
        ({}, ["train.eval_epochs=0", "method.patience=0", "method.cat_patience=0", "train.patience=9"]),
    ],
)
def test_just_enough(
    changes: dict[str, int], settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, flags = written(tmp_path, *settings, **changes)
    assert mdr(monkeypatch, "plan", job, *flags) == 0


def test_the_patience_of_a_job_needs_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job, flags = written(tmp_path, "train.eval_epochs=0", "train.patience=4", method="shared_bottom")
    said = refused(monkeypatch, capsys, "plan", job, *flags)
    assert f"{NONE}'joint' trains, which is to end after 4 of them without a gain (train.patience); set eval" in said


def test_fewer_users_than_a_batch_are_one_batch(tmp_path: Path) -> None:
    """12 users in batches of 16: a step an epoch; and two workers do what one does."""
    write_log(str(tmp_path / "log"), log())
    job = small_job("cat_art", str(tmp_path / "log"), data={"batch": 16}, eval=FEW, train={"epochs": 3})
    with group_of_one():
        one = train(job, str(tmp_path / "one"))
    two = in_group(2, train, job, str(tmp_path / "two"))[0]
    assert len(losses(one, "cat")) == 3
    assert storage.read_json(f"{one}/metrics.json")["lanes"]["cat"]["rows"] == 3 * 12
    assert largest_gap(weights(one, job), weights(two, job)) < 1e-6


def test_domains_that_are_left_out_change_nothing(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job on two of three domains does what it does where nobody took anything in the third."""
    shutil.copytree(dataset, tmp_path / "without")
    index = storage.read_json(f"{dataset}/files.json")
    for file in index["files"]:
        if file["domain"] == "d1":
            path = tmp_path / "without" / file["path"]
            table = pq.read_table(path, partitioning=None)
            nobody = pa.array(np.zeros(len(table), np.float32))
            at = table.schema.get_field_index("label")
            pq.write_table(table.set_column(at, table.schema.field(at), nobody), path)
            file["bytes"] = path.stat().st_size
    storage.write_json(str(tmp_path / "without" / "files.json"), index)
    found: dict[str, Any] = {}
    for name, path in (("whole", dataset), ("without", str(tmp_path / "without"))):
        job = small_job("cat_art", path, data={"domains": ["d0", "d2"]}, train={"epochs": 1})
        with group_of_one():
            found[name] = train(job, str(tmp_path / name))
    metrics = [storage.read_json(f"{run}/metrics.json") for run in found.values()]
    assert list(metrics[0]["lanes"]) == ["smf-d0", "smf-d2", "cat", "art-d0", "art-d2"]
    assert list(metrics[0]["test"]) == ["d0", "d2", "macro"]
    assert metrics[0]["test"] == metrics[1]["test"]
    alike = {name: Outputs(run, check(job).lanes.values()).dense() for name, run in found.items()}
    assert same_bits(alike["whole"], alike["without"])
    assert mdr(monkeypatch, "export", found["whole"], tmp_path / "out") == 0
    capsys.readouterr()
    for what in (tmp_path / "out", found["whole"]):
        assert mdr(monkeypatch, "evaluate", what, "--json") == 0
        assert yaml.safe_load(capsys.readouterr().out)["macro"] == pytest.approx(metrics[0]["test"]["macro"], abs=1e-6)


def test_a_data_set_of_other_domains_is_not_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dataset: str
) -> None:
    job, _ = written(tmp_path)
    assert mdr(monkeypatch, "train", job, "--runs", tmp_path, "--quiet", "--set", "train.epochs=1") == 0
    run = tmp_path / "cat_art-test"
    assert mdr(monkeypatch, "export", run, tmp_path / "out") == 0
    capsys.readouterr()
    for what, name in ((run, "run"), (tmp_path / "out", "export")):
        said = refused(monkeypatch, capsys, "evaluate", what, "--dataset", dataset)
        assert f": error: data set {dataset} (domains d0, d1, d2): prepared with another schema than the " in said
        assert said.endswith(f" schema than the {name} {what}; its ids mean other things")
