"""The command line: what it prints, and one clear line with exit code 2 for every wrong input."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from mdr_dist import storage
from mdr_dist.data.synthetic import configure, synthesize
from support.command import mdr, refused
from support.jobs import small_job


@pytest.fixture
def job(dataset: str, tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    value = small_job("shared_bottom", dataset, train={"epochs": 1}, data={"batch": 512}).model_dump(mode="json")
    path.write_text(yaml.safe_dump(value))
    return path


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["data.btch=3"], "unknown key 'data.btch'; known here: batch"),
        (["data.batch=many"], "data.batch: Input should be a valid integer"),
        (["train.epochs=0"], "train.epochs"),
        (["name=a/b"], "letters, digits"),
        (
            ["method.name=crocodil"],
            "no method named 'crocodil'; there are: adc, anr, bias, caser, cat_art, catn, ",
        ),
        (["method.dimm=4"], "method shared_bottom: unknown key 'dimm'"),
        (["method.features=[usr]"], "has no 'usr'; it has user"),
        (["data.path=nowhere"], "nowhere: not a data set"),
        (["data.domains=[d0,d9]"], "'d9' is not in data set tiny: its domains are d0, d1, d2"),
        (["data.streams=7"], "data.streams: 7 does not divide data.batch"),
        (["tables.placement=column_wise"], "column_wise with rowwise_adagrad"),
        (["tables.optimizer=adam", "tables.max_dense_rows=5"], "use rowwise_adagrad"),
        (["train.monitor=accuracy"], "no metric 'accuracy'"),
        (["oops"], "write it as key.path=value"),
        (["data.batch=[1"], "--set data.batch=[1: '[1' is not a YAML value"),
        (["data.batch.size=1"], "--set data.batch.size=1: 'batch' is a value, not a section"),
        (["train={seed: soon}"], "train.seed: Input should be a valid integer"),
    ],
)
def test_wrong_job(
    settings: list[str], says: str, job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [part for setting in settings for part in ("--set", setting)]
    runs = job.parent / "runs"
    assert says in refused(monkeypatch, capsys, "train", job, "--runs", runs, "--quiet", *flags)
    if settings != ["train.monitor=accuracy"]:  # this one is known only once there are metrics
        assert not runs.exists()


@pytest.mark.parametrize(
    ("text", "says"), [("a: [", "not valid YAML"), ("- 1", "expected a YAML mapping"), ("", "mapping")]
)
def test_wrong_file(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.yaml").write_text(text)
    assert says in refused(monkeypatch, capsys, "train", tmp_path / "job.yaml")


def test_missing_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in refused(monkeypatch, capsys, "train", tmp_path / "no.yaml")
    assert "a folder, not a file" in refused(monkeypatch, capsys, "train", tmp_path)
    assert "not a run" in refused(monkeypatch, capsys, "status", tmp_path)
    assert "not a run" in refused(monkeypatch, capsys, "evaluate", tmp_path)
    assert "no metrics.json" in refused(monkeypatch, capsys, "compare", tmp_path)
    assert "not a data set" in refused(monkeypatch, capsys, "inspect", tmp_path)
    assert "'[' is not a YAML value" in refused(monkeypatch, capsys, "synth", tmp_path / "x", "--set", "users=[")
    assert "give one a domain" in refused(
        monkeypatch, capsys, "synth", tmp_path / "x", "--preset", "paper", "--set", "items=[5]"
    )
    assert "greater than 0" in refused(monkeypatch, capsys, "synth", tmp_path / "x", "--preset", "paper", "--scale", 0)
    assert "'scale'" in refused(monkeypatch, capsys, "synth", tmp_path / "x", "--scale", 0.5)
    assert "no preset 'huge'" in refused(monkeypatch, capsys, "synth", tmp_path / "x", "--preset", "huge")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "not empty" in refused(monkeypatch, capsys, "synth", tmp_path / "full")


def test_a_run_from_plan_to_export(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dataset: str
) -> None:
    runs, run, out = job.parent / "runs", job.parent / "runs" / "shared_bottom-test", job.parent / "out"
    assert mdr(monkeypatch, "plan", job, "--world-size", 4) == 0
    assert "table_wise" in capsys.readouterr().out
    assert mdr(monkeypatch, "train", job, "--runs", runs) == 0
    assert "rows/s" in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"method", "dataset", "seed", "stages", "test", "train"} <= metrics.keys()
    assert metrics["test"]["macro"]["auc"] == pytest.approx(
        sum(metrics["test"][name]["auc"] for name in ("d0", "d1", "d2")) / 3
    )
    before = (run / "metrics.json").stat().st_mtime_ns
    assert mdr(monkeypatch, "train", job, "--runs", runs) == 0  # finished: shown again, not trained again
    assert (run / "metrics.json").stat().st_mtime_ns == before
    capsys.readouterr()
    assert "taken by another job (dense.lr was" in refused(
        monkeypatch, capsys, "train", job, "--runs", runs, "--set", "dense.lr=0.5"
    )
    assert mdr(monkeypatch, "status", run, "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "finished"
    for watching in ((), ("--watch", 60)):  # nothing is left to wait for
        assert mdr(monkeypatch, "status", run, *watching) == 0
        shown = "".join(capsys.readouterr().out.split())  # a narrow terminal may cut the run's path in two
        assert shown.startswith(f"{run}finishedlane") and "main" in shown
    assert mdr(monkeypatch, "compare", run, run, "--format", "markdown") == 0
    assert capsys.readouterr().out.startswith("| domain | shared_bottom-test auc")
    assert mdr(monkeypatch, "export", run, out) == 0
    capsys.readouterr()
    assert mdr(monkeypatch, "evaluate", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["pooled"]["auc"] == pytest.approx(metrics["test"]["pooled"]["auc"])
    assert "not empty" in refused(monkeypatch, capsys, "export", run, out)


def test_what_does_not_belong_together(
    job: Path, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, run, out = tmp_path / "runs", tmp_path / "runs" / "shared_bottom-test", tmp_path / "out"
    assert mdr(monkeypatch, "train", job, "--runs", runs, "--quiet") == 0
    assert mdr(monkeypatch, "export", run, out) == 0
    other = str(tmp_path / "other")
    synthesize(other, configure("tiny", ("items=50",)))
    capsys.readouterr()
    assert "prepared with another schema" in refused(monkeypatch, capsys, "evaluate", out, "--dataset", other)
    assert "prepared with another schema" in refused(monkeypatch, capsys, "evaluate", run, "--dataset", other)
    progress = next((run / "lanes/main/checkpoints").glob("*/progress.json"))
    value = storage.read_json(str(progress))
    value["identity"]["method"] = "mmoe"
    storage.write_json(str(progress), value)
    (progress.parent / "DONE").write_bytes(b"")  # as before it told sums
    assert "checkpoint of method mmoe" in refused(monkeypatch, capsys, "evaluate", run)
    (out / "dense.safetensors").write_bytes(b"broken")
    assert "sha256 is not the manifest's" in refused(monkeypatch, capsys, "evaluate", out)


def without(dataset: str, folder: Path, *, split: str, domain: str = "") -> str:
    """The data set without a split, or without a domain's rows in it."""
    shutil.copytree(dataset, folder)
    index = storage.read_json(f"{folder}/files.json")
    kept = [f for f in index["files"] if f["split"] != split or domain not in ("", f["domain"])]
    storage.write_json(f"{folder}/files.json", {"files": kept})
    return str(folder)


def test_a_domain_without_rows_in_a_split(
    job: Path, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for split, domain, settings in (
        ("train", "d1", []),
        ("train", "d1", ["data.domains=[d0,d1]"]),
        ("val", "", []),
        ("test", "", ["data.domains=[d0,d2]", "train.eval_epochs=0"]),
    ):
        path = without(dataset, tmp_path / f"{split}{domain}{len(settings)}", split=split, domain=domain)
        flags = [part for setting in (f"data.path={path}", *settings) for part in ("--set", setting)]
        said = refused(monkeypatch, capsys, "train", job, "--runs", runs, *flags)
        assert f"domain {domain or 'd0'} has no rows in split {split} of data set {path}" in said
        assert not runs.exists()


def test_labels_that_are_ratings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{time},u{time % 7},i{time % 5},d{time % 2},{time % 5 + 1}" for time in range(200)]
    (tmp_path / "log.csv").write_text("\n".join(["time,user,item,domain,rating", *rows]))
    columns = {"time": "int", "user": "text", "item": "text", "domain": "text", "rating": "float"}
    recipe = {
        "log": [{"files": ["log.csv"], "format": "csv", "columns": columns}],
        "labels": {"stars": "rating"},
        "domain": {"column": "domain"},
        "features": [{"name": "user"}, {"name": "item"}],
        "split": {"random": {"val": 0.2, "test": 0.2}},
    }
    (tmp_path / "prepare.yaml").write_text(yaml.safe_dump(recipe))
    data = tmp_path / "data"
    assert mdr(monkeypatch, "prepare", tmp_path / "prepare.yaml", data, "--raw", tmp_path) == 0
    job = small_job("shared_bottom", str(data), data={"batch": 16})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    said = refused(monkeypatch, capsys, "train", tmp_path / "job.yaml", "--runs", tmp_path, "--quiet")
    assert f"{data}: split val has a row whose stars is " in said and "ranking needs 0 and 1" in said


def test_a_fault_leaves_its_traceback_until_an_attempt_succeeds(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "shared_bottom-test"
    command = ("train", job, "--runs", tmp_path, "--quiet", "--set", "train.save_steps=2")
    with monkeypatch.context() as broken:
        broken.setattr("mdr_dist.train.trainer.train_step", lambda *_, **__: 1 / 0)
        assert mdr(monkeypatch, *command) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [f"mdr: fault: ZeroDivisionError: division by zero; the traceback is in {run}/error.txt"]
    assert "in _step" in (run / "error.txt").read_text()
    assert mdr(monkeypatch, "status", run, "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "failed"
    assert mdr(monkeypatch, *command) == 0
    assert not (run / "error.txt").exists()


def test_a_loss_that_is_not_finite(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "shared_bottom-test"
    settings = ("--set", "dense.lr=1e30", "--set", "train.save_steps=1")
    assert mdr(monkeypatch, "train", job, "--runs", tmp_path, "--quiet", *settings) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "FloatingPointError: stage 'joint': loss 'bce' is " in line and "at epoch 1, step 2" in line
    assert str(run / "error.txt") in line
    assert [path.name for path in (run / "lanes/main/checkpoints").iterdir()] == ["000001"]


def test_a_damaged_checkpoint(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "shared_bottom-test"
    assert mdr(monkeypatch, "train", job, "--runs", tmp_path, "--quiet") == 0
    for done in ("metrics.json", "lanes/main/result.json"):
        (run / done).unlink()
    (folder,) = (run / "lanes/main/checkpoints").iterdir()
    (folder / "dense.safetensors").write_bytes(b"")
    capsys.readouterr()
    for command in (("train", job, "--runs", tmp_path), ("evaluate", run), ("export", run, tmp_path / "out")):
        said = refused(monkeypatch, capsys, *command)
        assert f"{folder}/dense.safetensors: damaged: " in said and "remove the folder to go on" in said
    assert not (tmp_path / "out").exists()
    shutil.rmtree(folder)
    assert mdr(monkeypatch, "train", job, "--runs", tmp_path, "--quiet") == 0


def test_evaluation_needs_no_rows_to_train_on(
    job: Path, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "shared_bottom-test", tmp_path / "out"
    assert mdr(monkeypatch, "train", job, "--runs", tmp_path, "--quiet") == 0
    test_only = without(without(dataset, tmp_path / "a", split="train"), tmp_path / "b", split="val")
    assert mdr(monkeypatch, "export", run, out) == 0
    capsys.readouterr()
    for source in (run, out):
        assert mdr(monkeypatch, "evaluate", source, "--dataset", test_only, "--json") == 0
        assert json.loads(capsys.readouterr().out) == storage.read_json(str(run / "metrics.json"))["test"]
        said = refused(monkeypatch, capsys, "evaluate", source, "--dataset", test_only, "--split", "val")
        assert f"has no rows in split val of data set {test_only}" in said


def test_an_address_needs_workers(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(monkeypatch, capsys, "train", job, "--runs", tmp_path / "runs", "--address", "10.0.0.1:6379")
    assert "--address: say also how many --workers" in said
    assert not (tmp_path / "runs").exists()


def test_submit_takes_a_job_or_asks_after_one(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The word `job` may be left out; nothing is asked of a cluster for a job that is wrong."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # Ray sets it where a token lies in the home folder
    for words in (("submit", job), ("submit", "job", job), ("submit", "--runs", "runs", job)):
        wrong = refused(monkeypatch, capsys, *words, "--address", "http://127.0.0.1:1", "--set", "method.dimm=4")
        assert "method shared_bottom: unknown key 'dimm'" in wrong
        assert "--address: say where the cluster's dashboard is" in refused(monkeypatch, capsys, *words)
    for words in (("status",), ("logs", "name"), ("stop", "name")):
        assert "--address: say where the cluster's dashboard is" in refused(monkeypatch, capsys, "submit", *words)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")  # no dashboard's
    assert "--address: say where the cluster's dashboard is" in refused(monkeypatch, capsys, "submit", "status")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    assert "--address http://127.0.0.1:1: no Ray cluster" in refused(monkeypatch, capsys, "submit", "status")
    assert mdr(monkeypatch, "submit", "status", "--address", "http://head.invalid:8265") == 2
    warned, said = capsys.readouterr().err.splitlines()
    assert warned.startswith("mdr: warning: http://head.invalid:8265 is plain HTTP without a token: ")
    assert said.startswith("mdr: error: --address http://head.invalid:8265: no Ray cluster's dashboard answers there")
    assert mdr(monkeypatch, "submit", "--help") == 0
    assert "mdr submit JOB.yaml --address http://HEAD:8265" in " ".join(capsys.readouterr().out.split())


def test_help_is_quick_to_import() -> None:
    """Nothing heavy may be imported before a command runs."""
    import subprocess

    code = (
        "import sys, mdr_dist.cli; sys.exit('torch' in sys.modules or 'ray' in sys.modules or 'duckdb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
