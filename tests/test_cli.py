"""The command line: what it prints, and one clear line with exit code 2 for every wrong input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from mdr_dist import cli, storage
from mdr_dist.data.synthetic import configure, synthesize
from support.jobs import small_job


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("cli") / "tiny")
    synthesize(path, configure("tiny", ()))
    return path


@pytest.fixture
def job(dataset: str, tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    value = small_job("shared_bottom", dataset, train={"epochs": 1}, data={"batch": 512}).model_dump(mode="json")
    path.write_text(yaml.safe_dump(value))
    return path


def mdr(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["mdr", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a wrong input gives."""
    assert mdr(monkeypatch, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("mdr: error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["data.btch=3"], "unknown key 'data.btch'; known here: batch"),
        (["data.batch=many"], "data.batch: Input should be a valid integer"),
        (["train.epochs=0"], "train.epochs"),
        (["name=a/b"], "letters, digits"),
        (["method.name=crocodil"], "no method named 'crocodil'; there are: crocodile"),
        (["method.dimm=4"], "method shared_bottom: unknown key 'dimm'"),
        (["method.features=[usr]"], "has no 'usr'; it has user"),
        (["data.path=nowhere"], "nowhere: not a data set"),
        (["data.domains=[d0,d9]"], "'d9' is not in data set tiny: its domains are d0, d1, d2"),
        (["data.batch=100000"], "fewer than one batch of 100000"),
        (["data.streams=7"], "data.streams: 7 does not divide data.batch"),
        (["tables.placement=column_wise"], "column_wise with rowwise_adagrad"),
        (["tables.optimizer=adam", "tables.max_dense_rows=5"], "use rowwise_adagrad"),
        (["train.monitor=accuracy"], "no metric 'accuracy'"),
        (["oops"], "write it as key.path=value"),
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
    assert "not a run" in refused(monkeypatch, capsys, "status", tmp_path)
    assert "not a run" in refused(monkeypatch, capsys, "evaluate", tmp_path)
    assert "no metrics.json" in refused(monkeypatch, capsys, "compare", tmp_path)
    assert "not a data set" in refused(monkeypatch, capsys, "inspect", tmp_path)
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
    assert mdr(monkeypatch, "status", run) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "finished"
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
    assert "checkpoint of schema" in refused(monkeypatch, capsys, "evaluate", run, "--dataset", other)
    progress = next((run / "lanes/main/checkpoints").glob("*/progress.json"))
    value = storage.read_json(str(progress))
    value["identity"]["method"] = "mmoe"
    storage.write_json(str(progress), value)
    assert "checkpoint of method mmoe" in refused(monkeypatch, capsys, "evaluate", run)
    (out / "dense.safetensors").write_bytes(b"broken")
    assert "sha256 is not the manifest's" in refused(monkeypatch, capsys, "evaluate", out)


def test_help_is_quick_to_import() -> None:
    """Nothing heavy may be imported before a command runs."""
    import subprocess

    code = (
        "import sys, mdr_dist.cli; sys.exit('torch' in sys.modules or 'ray' in sys.modules or 'duckdb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
