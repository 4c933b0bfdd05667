"""The tables of `tools/study.py`, against numbers worked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import study as tool
from pydantic import ValidationError

COLUMNS: dict[str, Any] = {
    "One, each alone": {"job": "one.yaml", "single": True},
    "Two": {"job": "two.yaml", "set": {"method.dim": 8}},
}


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
    lines = tool.report(_study(), runs, ("a", "b"))
    # a, alone: 0.6 and 0.8, so 0.7 with deviation sqrt(0.02); macro: 0.65 and 0.75
    assert "| a | 0.7000 ± 0.1414 | 0.8500 ± 0.0707 |" in lines
    assert "| b | 0.7000 ± 0.0000 | 0.6000 ± 0.0000 |" in lines
    assert "| macro | 0.7000 ± 0.0707 | 0.7250 ± 0.0354 |" in lines


def test_a_domain_where_the_subject_loses_is_named(runs: Path) -> None:
    lines = tool.report(_study(), runs, ("a", "b"))
    # macro gains by seed: 0.70 - 0.65 and 0.75 - 0.75
    assert "- Two against One, each alone: +0.0250 (by seed +0.0000 to +0.0500); ahead in 1 of 2, not in b" in lines


def test_the_way_to_the_best_possible(runs: Path) -> None:
    # lowest: 0.6 of (0.5, 0.9), a quarter of the way, for both
    assert "Lowest of any domain and seed: One, each alone 0.250, Two 0.250." in tool.report(_study(), runs, ("a", "b"))


def test_a_single_column_trains_every_domain_by_itself() -> None:
    made = dict(tool.commands(_study(), Path("jobs/x"), domains=("a", "b")))
    assert len(made) == 2 * 2 + 2
    one = made["one-each-alone-b-seed5"]
    assert one[:2] == ["train", "jobs/x/one.yaml"]
    assert 'data.domains=["b"]' in one
    assert 'data.path="data/5"' in one
    assert not any(part.startswith("data.domains") for part in made["two-seed3"])
    assert "method.dim=8" in made["two-seed3"]


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        _study(colour="red")
