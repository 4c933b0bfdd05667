"""A method that retrieves, from a job to metrics, early stopping, export and the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdr_dist import catalog, cli
from mdr_dist.config import Job
from mdr_dist.errors import UserError
from mdr_dist.launch.process import evaluate_export, evaluate_run, export_run, train_here
from mdr_dist.train.run import check
from support.retrieval import DOMAINS, Row, write_log


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Users take items of their own parity, so that there is something to learn."""
    monkeypatch.setitem(catalog.INDEX, "factors", "support.retrieval:Factors")
    rng = np.random.default_rng(0)
    rows = [
        Row(split, domain, user, 1 + user % 2 + 2 * item)
        for split, count in (("train", 900), ("val", 150), ("test", 150))
        for domain in DOMAINS
        for user, item in zip(rng.integers(1, 50, count).tolist(), rng.integers(0, 60, count).tolist(), strict=True)
    ]
    write_log(str(tmp_path / "log"), rows)
    return {
        "name": "factors",
        "data": {"path": str(tmp_path / "log"), "batch": 64},
        "method": {"name": "factors", "scale": 0.1},
        "tables": {"lr": 0.3},
        "train": {"epochs": 5, "patience": 3, "monitor": "ndcg@10", "threads": 1, "save_minutes": 0},
        "eval": {"ks": [5, 10]},
    }


def test_a_run_from_job_to_export(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    run, metrics = train_here(Job.model_validate(job), str(tmp_path / "runs"), echo=lines.append)
    test = metrics["test"]
    assert list(test) == [*DOMAINS, "macro"]
    assert test["macro"]["ndcg@10"] > 1.5 * test["macro"]["random/ndcg@10"]
    assert json.loads((Path(run) / "metrics.json").read_text()) == metrics
    assert any("validation ndcg@10  books 0." in line for line in lines)

    assert evaluate_run(run) == test
    assert evaluate_run(run, split="val")["books"]["users"] > 0
    export_run(run, str(tmp_path / "out"), form="safetensors")
    assert evaluate_export(str(tmp_path / "out"))["macro"] == pytest.approx(test["macro"], abs=1e-9)

    def told(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["mdr", *arguments])
        cli.main.__globals__["app"](arguments, standalone_mode=False)
        return capsys.readouterr().out

    capsys.readouterr()
    best = f"{test['books']['recall@10']:.4f}"
    assert f"{best} ({test['books']['random/recall@10']:.4f})" in told("evaluate", run)
    shorter = json.loads(told("evaluate", run, "--set", "eval.ks=[3]", "--json"))
    assert shorter == evaluate_run(run, settings=("eval.ks=[3]",))
    assert "recall@3" in shorter["books"] and "recall@5" not in shorter["books"]
    with pytest.raises(UserError, match=r"--set data\.batch=3: only eval\.\* can change after training"):
        evaluate_run(run, settings=("data.batch=3",))
    with pytest.raises(UserError, match=r"--set: eval\.ks: .*at least 1 item"):
        evaluate_export(str(tmp_path / "out"), settings=("eval.ks=[]",))
    assert "| domain | factors recall@10 | factors ndcg@10 |" in told("compare", run, "--format", "markdown")
    shown = told("compare", run, "--format", "csv", "--metrics", "mrr@5,random/mrr@5").splitlines()
    assert shown[0] == "domain,factors mrr@5,factors random/mrr@5"
    gained = json.loads(told("compare", run, "--against", run, "--metrics", "ndcg@10", "--format", "json"))
    assert gained["gains"][run]["ndcg@10"]["books"]["users"] == test["books"]["users"]
    assert gained["gains"][run]["ndcg@10"]["books"]["high"] == 0.0
    assert "no difference" in told("compare", run, "--against", run, "--format", "markdown")
    assert shown[-1] == f"macro,{test['macro']['mrr@5']:.4f},{test['macro']['random/mrr@5']:.4f}"


def test_a_metric_that_is_not_measured_is_refused_before_training(job: dict[str, Any]) -> None:
    for monitor in ("auc", "ndcg@7"):
        wrong = {**job, "train": {**job["train"], "monitor": monitor}}
        with pytest.raises(UserError, match=rf"train\.monitor: no metric '{monitor}'; there are: recall@5, recall@10"):
            check(Job.model_validate(wrong))
    check(Job.model_validate({**job, "train": {"eval_epochs": 0}}))
