"""The tables of `tools/study.py`, against numbers worked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import study as runner
import study_report as tool
from pydantic import ValidationError

from tests.support.ranked import write_ranked

COLUMNS: dict[str, Any] = {
    "One, each alone": {"job": "one.yaml", "single": True},
    "Two": {"job": "two.yaml", "set": {"method.dim": 8}},
}


@pytest.fixture(autouse=True)
def _domains(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {split: {"a": 1000, "b": 10} for split in ("train", "val", "test")}
    schema = SimpleNamespace(domains=("a", "b"), rows=rows)
    monkeypatch.setattr(tool, "read_schema", lambda _: schema)


def _study(**changes: Any) -> tool.Study:
    value = {"make": "synth x", "data": "data/{seed}", "seeds": [3, 5], "subject": "Two", "columns": COLUMNS}
    return tool.Study.model_validate(value | changes)


def _finished(runs: Path, name: str, **aucs: float) -> None:
    (runs / name).mkdir()
    domains = {domain: {"auc": value, "gauc": 0.5, "bayes_auc": 0.9} for domain, value in aucs.items()}
    (runs / name / "metrics.json").write_text(json.dumps({"test": {**domains, "macro": {"bayes_auc": 0.9}}}))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, (a, b, c, d) in {3: (0.6, 0.7, 0.8, 0.6), 5: (0.8, 0.7, 0.9, 0.6)}.items():
        _finished(tmp_path, f"one-each-alone-a-seed{seed}", a=a)
        _finished(tmp_path, f"one-each-alone-b-seed{seed}", b=b)
        _finished(tmp_path, f"two-seed{seed}", a=c, b=d)
    return tmp_path


def test_cells_are_means_over_seeds(runs: Path) -> None:
    lines = tool.report(_study(), runs, part="")
    # a, alone: 0.6 and 0.8, so 0.7 with deviation sqrt(0.02); macro: 0.65 and 0.75
    assert "| a | 0.7000 ± 0.1414 | 0.8500 ± 0.0707 |" in lines
    assert "| b | 0.7000 ± 0.0000 | 0.6000 ± 0.0000 |" in lines
    assert "| macro | 0.7000 ± 0.0707 | 0.7250 ± 0.0354 |" in lines


def test_a_domain_where_the_subject_loses_is_named(runs: Path) -> None:
    lines = tool.report(_study(), runs, part="")
    # macro gains by seed: 0.70 - 0.65 and 0.75 - 0.75
    assert "- Two against One, each alone: +0.0250 (by seed +0.0000 to +0.0500); ahead in 1 of 2, not in b" in lines


def test_the_way_to_the_best_possible(runs: Path) -> None:
    # lowest: 0.6 of (0.5, 0.9), a quarter of the way, for both
    assert "Lowest of any domain and seed: One, each alone 0.250, Two 0.250." in tool.report(_study(), runs, part="")


def test_a_single_column_trains_every_domain_by_itself() -> None:
    made = dict(runner.commands(_study(), Path("jobs/x"), part=""))
    assert len(made) == 2 * 2 + 2
    one = made["one-each-alone-b-seed5"]
    assert one[:2] == ["train", "jobs/x/one.yaml"]
    assert 'data.domains=["b"]' in one
    assert 'data.path="data/5"' in one
    assert not any(part.startswith("data.domains") for part in made["two-seed3"])
    assert "method.dim=8" in made["two-seed3"]


def test_sets_have_runs_and_data_of_their_own() -> None:
    study = _study(make="synth data/{set}", data="data/{set}", sets=["x", "y"])
    made = dict(runner.commands(study, Path("jobs/x"), part="y"))
    assert 'data.path="data/y"' in made["y-two-seed3"] and len(made) == 6


def test_gains_are_over_users_of_all_seeds(tmp_path: Path) -> None:
    study = _study(data="data", baseline="One", columns={"One": {"job": "one.yaml"}, "Two": {"job": "two.yaml"}})
    for title, seed, a, b in (("one", 3, 0.1, 0.5), ("one", 5, 0.3, 0.5), ("two", 3, 0.5, 0.25), ("two", 5, 0.5, 0.25)):
        values = {"a": np.full(20, a), "b": np.full(20, b)}
        write_ranked(tmp_path / f"{title}-seed{seed}", {domain: {"ndcg@10": each} for domain, each in values.items()})
    lines = tool.intervals(study, tmp_path, part="", metric="ndcg@10")
    # all users alike, so the interval is a point: 0.5 - 0.2 in a, 0.25 - 0.5 in b
    assert "| a | +0.3000 [+0.3000, +0.3000] gain |" in lines
    assert "| b | -0.2500 [-0.2500, -0.2500] loss |" in lines
    assert tool.intervals(_study(), tmp_path, part="", metric="ndcg@10") == []


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        _study(colour="red")


def test_a_schedule_is_told_moment_by_moment_with_the_seconds_of_a_period(tmp_path: Path) -> None:
    for seed, low in {3: 0.1, 5: 0.3}.items():
        before = {f"period {p}": {"macro": {"auc": low + p / 10}, "a": {"auc": low}} for p in (1, 2)}
        stages = {"start": 50.0, "period-0001-0-fit": 1.0, "period-0001-0-look-ahead": 2.0, "period-0002-0-fit": low}
        for title in ("one", "two"):
            value = {"before": before if title == "two" else {}, "lanes": {"main": {"stages": stages}}}
            (tmp_path / f"{title}-seed{seed}").mkdir()
            (tmp_path / f"{title}-seed{seed}" / "metrics.json").write_text(json.dumps(value))
    columns = {"One": {"job": "one.yaml"}, "Two": {"job": "two.yaml"}}
    study = _study(columns=columns, moments={"of": "before"})
    lines = tool.on_the_way(study, tmp_path, part="", metric="auc")
    # One has none; 0.2 and 0.4, so 0.3 with deviation sqrt(0.02)
    assert lines[2:6] == ["| | Two |", "|---|---:|", "| period 1 | 0.3000 ± 0.1414 |", "| period 2 | 0.4000 ± 0.1414 |"]
    alone = _study(columns=columns, moments={"of": "before", "domain": "a"})
    of_a = tool.on_the_way(alone, tmp_path, part="", metric="auc")
    assert of_a[4] == "| period 1 | 0.2000 ± 0.1414 |"
    # two periods: 3 s, and 0.1 or 0.3 s; the start is none
    assert tool.seconds(study, tmp_path, part="")[-2] == "| 1.60 ± 0.07 | 1.60 ± 0.07 |"


def test_a_second_measure_the_random_level_and_published_figures_stand_beside(tmp_path: Path) -> None:
    for title, high in {"one": 0.4, "two": 0.6}.items():
        for name, add in {"metrics.json": 0.0, tool.ALSO: 0.2}.items():
            found = {d: {"recall@50": high + add, "random/recall@50": 0.1 + add} for d in ("a", "b", "macro")}
            (tmp_path / f"{title}-seed3").mkdir(exist_ok=True)
            (tmp_path / f"{title}-seed3" / name).write_text(json.dumps({"test": found}))
    columns = {"One": {"job": "one.yaml"}, "Two": {"job": "two.yaml"}}
    said = {"": {"Two": [0.5, 0.75]}, "other": {"Two": [1.0, 1.0]}}
    also = {"eval.candidates": "domain"}
    study = _study(columns=columns, seeds=[3], metrics=["recall@50"], also=also, published=said)
    lines = tool.report(study, tmp_path, part="")
    assert "| a | 0.4000 ± 0.0000 | 0.6000 ± 0.0000 |" in lines
    assert "A random order: a 0.1000, b 0.1000, macro 0.1000." in lines
    published = lines.index("Published:")
    assert lines[published + 2 : published + 7] == [
        "| domain | Two |", "|---|---:|", "| a | 0.5000 |", "| b | 0.7500 |", "| macro | 0.6250 |",
    ]  # fmt: skip
    second = lines.index("### recall@50, with eval.candidates: domain")
    assert "| b | 0.6000 ± 0.0000 | 0.8000 ± 0.0000 |" in lines[second:]
    assert "A random order: a 0.3000, b 0.3000, macro 0.3000." in lines[second:]
