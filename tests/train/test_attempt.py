"""A run that goes on: with a period more, ids more or a domain more; and jobs that would take something away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mdr_dist.config import Job
from mdr_dist.data import layout
from mdr_dist.errors import UserError
from mdr_dist.launch.process import evaluate_export, evaluate_run, train_here
from mdr_dist.schema import Feature, Schema
from mdr_dist.tables.start import start_rows
from mdr_dist.train.run import plan_of
from support.jobs import same_bits, weights

USERS, ITEMS, ROWS = 12, 20, 96  # rows a period


def write(path: Path, periods: int, *, more: int = 0, grown_from: tuple[str, ...] = (), without: int = -1) -> str:
    """A data set of so many periods, one `without` rows; the last has `more` users and items than those before."""
    schema = Schema(
        name="log",
        domains=("all",),
        features=(
            Feature(name="user", kind="id", rows=USERS + more),
            Feature(name="item", kind="id", rows=ITEMS + more),
            Feature(name="domain", kind="id", rows=1),
        ),
        periods=periods,
        rows={"train": {"all": periods * ROWS}},
        grown_from=grown_from,
    )
    with layout.NewDataset(str(path)) as new:
        shards: list[layout.Shard] = []
        for period in set(range(periods)) - {without}:
            writer = layout.ShardWriter(
                new.root, layout.arrow_schema(schema), domain="all", split="train", period=period
            )
            generator = np.random.default_rng(period)
            extra = more if period == periods - 1 else 0
            user, item = (generator.integers(1, count + max(extra - 1, 0), ROWS) for count in (USERS, ITEMS))
            columns = {"user": user, "item": item, "label": np.ones(ROWS), "user_key": user}
            fields = layout.arrow_schema(schema)
            writer.write(pa.table([pa.array(columns[f.name], f.type) for f in fields], schema=fields))
            shards += writer.close()
        new.commit(schema, shards, {})
    return schema.fingerprint


def job(data: Path, **sections: dict[str, Any]) -> Job:
    value: dict[str, Any] = {
        "name": "periods",
        "data": {"path": str(data), "batch": 32},
        "method": {"name": "sml", "dim": 4, "first": 1, "rounds": 2, "first_epochs": 2, "hidden": 8},
        "tables": {"optimizer": "adam", "lr": 0.01},
        "train": {"threads": 1, "save_minutes": 0, "export": "safetensors"},
        "eval": {"ks": [5], "sampled": 9},
    }
    for section, keys in sections.items():
        value[section] = {**value.get(section, {}), **keys}
    return Job.model_validate(value)


def events(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "lanes/main/events.jsonl").read_text().splitlines()]


def test_a_period_more_is_met_then_learnt_and_gives_the_bits_of_a_run_on_all(tmp_path: Path) -> None:
    write(tmp_path / "three", 3)
    write(tmp_path / "four", 4)
    run, first = train_here(job(tmp_path / "three"), str(tmp_path / "runs"))
    steps = sum(event["kind"] == "step" for event in events(run))
    _, second = train_here(job(tmp_path / "four"), str(tmp_path / "runs"))
    whole, once = train_here(job(tmp_path / "four"), str(tmp_path / "whole"))
    four = job(tmp_path / "four")
    assert same_bits(weights(run, four), weights(whole, four))
    assert list(first["before"]) == ["period 1", "period 2"]
    assert list(second["before"]) == ["period 1", "period 2", "period 3"]
    assert second["before"] == once["before"] and second["test"] == once["test"]
    # nothing was learnt twice, and the new period was met before anything moved
    assert sum(event["kind"] == "step" for event in events(run)) == sum(e["kind"] == "step" for e in events(whole))
    after = events(run)[[e["kind"] for e in events(run)].index("start", 1) :]
    assert [event["kind"] for event in after[:2]] == ["start", "test"]
    assert steps < sum(event["kind"] == "step" for event in events(run))
    left = sorted((Path(run) / "export").iterdir())
    assert len(left) == 2
    assert evaluate_export(str(left[-1]), split="train") == evaluate_run(run, split="train")


def test_ids_that_came_with_a_period_start_as_they_would_have(tmp_path: Path) -> None:
    def fine_tuned(data: str) -> Job:
        return Job.model_validate({**job(tmp_path / data).model_dump(), "method": {"name": "fine_tune", "dim": 4}})

    small = write(tmp_path / "small", 2)
    run, _ = train_here(fine_tuned("small"), str(tmp_path / "runs"))
    before = weights(run, fine_tuned("small"))
    write(tmp_path / "stranger", 3, more=5)
    with pytest.raises(UserError, match=r"checkpoint of schema .* choose another run name"):
        train_here(fine_tuned("stranger"), str(tmp_path / "runs"))
    write(tmp_path / "large", 3, more=5, grown_from=(small,))
    train_here(fine_tuned("large"), str(tmp_path / "runs"))
    after = weights(run, fine_tuned("large"))
    for spec in plan_of(fine_tuned("large")).method.tables():
        name = f"tables/{spec.name}"
        assert len(after[name]) == len(before[name]) + 5
        assert torch.equal(after[name][0], before[name][0])  # a row that nothing names
        ((_, start),) = start_rows(spec, 0, row_start=spec.rows - 1, row_end=spec.rows)
        assert torch.equal(after[name][-1:], start)  # one of those that came, which nothing names either
        assert not torch.equal(after[name][1 : len(before[name])], before[name][1:])


def test_a_period_without_rows_and_a_test_before_anything_is_learnt_are_told_before_anything_starts(
    tmp_path: Path,
) -> None:
    write(tmp_path / "gap", 4, without=2)
    with pytest.raises(UserError, match=r"all has no rows in split train of data set .*gap, period 2"):
        train_here(job(tmp_path / "gap"), str(tmp_path / "runs"))
    write(tmp_path / "three", 3)
    for method in ({"tested": 1, "first": 2}, {"first": 3}):
        with pytest.raises(UserError, match=r"something must be learnt before it"):
            train_here(job(tmp_path / "three", method=method), str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_job_may_not_take_away_what_was_learnt(tmp_path: Path) -> None:
    write(tmp_path / "two", 2)
    write(tmp_path / "three", 3)
    train_here(job(tmp_path / "three"), str(tmp_path / "runs"))
    with pytest.raises(UserError, match=r"data\.path takes stage 'period-0001-0-look-ahead' away"):
        train_here(job(tmp_path / "two"), str(tmp_path / "runs"))
    with pytest.raises(UserError, match=r"taken by another job \(method\.rounds was 2, now 3\)"):
        train_here(job(tmp_path / "three", method={"rounds": 3}), str(tmp_path / "runs"))


def test_a_domain_is_added_to_a_finished_run(dataset: str, tmp_path: Path) -> None:
    def in_order(*order: str) -> Job:
        return Job.model_validate(
            {
                "name": "domains",
                "data": {"path": dataset, "batch": 64},
                "method": {"name": "cl4rec", "dim": 32, "order": list(order)},
                "tables": {"lr": 0.05},
                "train": {"threads": 1, "save_minutes": 0, "monitor": "ndcg@5"},
                "eval": {"ks": [5]},
            }
        )

    domains = layout.read_schema(dataset).domains
    run, first = train_here(in_order(*domains[:2]), str(tmp_path / "runs"))
    held = weights(run, in_order(*domains[:2]))
    _, second = train_here(in_order(*domains), str(tmp_path / "runs"))
    now = weights(run, in_order(*domains))
    assert [*first["stages"], f"domain-{domains[2]}"] == second["stages"]
    for table, mask in (("tables/user", "user_mask"), ("tables/item", "item_mask")):
        holds = torch.stack([held[f"{mask}.{k}"] > 0 for k in (0, 1)]).any(0)
        assert holds.any() and not holds.all()
        assert torch.equal(now[table][:, holds], held[table][:, holds])
        assert not torch.equal(now[table][:, ~holds], held[table][:, ~holds])
