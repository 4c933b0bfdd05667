"""Sharded tables against the unsharded twin, in every placement and under every optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mdr_dist.checkpoint.checkpoint import Checkpoints
from mdr_dist.config import TablesConfig
from mdr_dist.launch.process import group_of_one
from mdr_dist.stage import Init, Stage, TableSpec
from mdr_dist.tables import PlainTables, build_tables, read_table
from mdr_dist.tables.start import start_rows
from support.groups import in_group
from support.jobs import full_table
from support.tables import CPU, ROWS, SPECS, STAGE, STEPS, batch_of, run_steps, trained_names

CASES = [
    (placement, optimizer)
    for placement in ("table_wise", "row_wise", "column_wise", "data_parallel")
    for optimizer in ("sgd", "adagrad", "rowwise_adagrad", "adam")
    if (placement, optimizer) != ("column_wise", "rowwise_adagrad")
]


def specs_for(placement: str, optimizer: str) -> tuple[TableSpec, ...]:
    """Tables that can be placed so over two processes."""
    return tuple(spec for spec in SPECS if placement != "column_wise" or spec.dim % 8 == 0)


def sharded(placement: str, optimizer: str, folder: str) -> dict[str, Any]:
    """What two processes get, and what they saved halfway."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    specs = specs_for(placement, optimizer)
    tables = build_tables(
        specs, (STAGE,), config=TablesConfig(placement=placement, optimizer=optimizer, lr=0.05), device=CPU, seed=1
    )
    start = {name: full_table(tables, name) for name in tables.specs}
    losses = run_steps(tables, trained_names(specs), rank=rank, world=world, steps=range(STEPS // 2))
    Checkpoints(folder).save(1, tables=tables.state(), dense={"x": torch.zeros(1)}, progress={})
    losses += run_steps(tables, trained_names(specs), rank=rank, world=world, steps=range(STEPS // 2, STEPS))
    return {"start": start, "losses": losses, "tables": {name: full_table(tables, name) for name in tables.specs}}


def all_sharded(folder: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {case: sharded(*case, f"{folder}/{case[0]}-{case[1]}") for case in CASES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def two(folder: str) -> list[dict[tuple[str, str], dict[str, Any]]]:
    return in_group(2, all_sharded, folder)


@pytest.mark.parametrize(("placement", "optimizer"), CASES)
def test_two_processes_equal_the_twin(placement: str, optimizer: str, two: list[Any]) -> None:
    specs = specs_for(placement, optimizer)
    config = TablesConfig(optimizer=optimizer, lr=0.05)
    twin = PlainTables.build(specs, (STAGE,), config=config, device=CPU, seed=1)
    start = {name: full_table(twin, name) for name in twin.specs}
    losses = run_steps(twin, trained_names(specs), rank=0, world=1, steps=range(STEPS))
    one, other = two[0][placement, optimizer], two[1][placement, optimizer]
    assert losses == pytest.approx([a + b for a, b in zip(one["losses"], other["losses"], strict=True)], abs=1e-5)
    for name in twin.specs:
        assert torch.equal(one["start"][name], start[name]), "the start depends on placement"
        table = full_table(twin, name)
        assert float((one["tables"][name] - table).abs().max()) < 1e-5
        assert torch.equal(table, start[name]) == (name == "frozen")
    assert torch.equal(one["tables"]["frozen"], start["frozen"])
    if optimizer != "adam":
        assert torch.equal(one["tables"]["item"][ROWS - 1], start["item"][ROWS - 1]), "a row never met has moved"


@pytest.mark.parametrize(("placement", "optimizer"), CASES)
@pytest.mark.parametrize("into", ["table_wise", "data_parallel"])
def test_checkpoint_of_two_goes_on_in_one(
    placement: str, optimizer: str, into: str, two: list[Any], folder: str
) -> None:
    specs = specs_for(placement, optimizer)
    config = TablesConfig(placement=into, optimizer=optimizer, lr=0.05)
    saved = Checkpoints(f"{folder}/{placement}-{optimizer}")
    with group_of_one():
        tables = build_tables(specs, (STAGE,), config=config, device=CPU, seed=2)
        tables.load(lambda state: saved.load_tables(1, state))
        for spec in specs:
            rows = read_table(saved.folder(1), spec)
            assert torch.equal(rows, full_table(tables, spec.name))
            part = read_table(saved.folder(1), spec, row_start=min(7, spec.rows - 1), row_end=spec.rows)
            assert torch.equal(part, rows[min(7, spec.rows - 1) :])
        run_steps(tables, trained_names(specs), rank=0, world=1, steps=range(STEPS // 2, STEPS))
        for name in tables.specs:
            assert float((full_table(tables, name) - two[0][placement, optimizer]["tables"][name]).abs().max()) < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad", "adam"])
def test_a_gpu_equals_the_twin(optimizer: str) -> None:
    config = TablesConfig(optimizer=optimizer, lr=0.05)
    twin = PlainTables.build(SPECS, (STAGE,), config=config, device=CPU, seed=1)
    run_steps(twin, trained_names(SPECS), rank=0, world=1, steps=range(STEPS))
    with group_of_one() as device:
        tables = build_tables(SPECS, (STAGE,), config=config, device=device, seed=1)
        run_steps(tables, trained_names(SPECS), rank=0, world=1, steps=range(STEPS), device=device)
        for name in tables.specs:
            assert float((full_table(tables, name) - full_table(twin, name)).abs().max()) < 1e-4


def test_one_process_repeats_bit_for_bit() -> None:
    results = []
    for _ in range(2):
        with group_of_one():
            tables = build_tables(SPECS, (STAGE,), config=TablesConfig(lr=0.05), device=CPU, seed=1)
            run_steps(tables, trained_names(SPECS), rank=0, world=1, steps=range(10))
            results.append({name: full_table(tables, name) for name in tables.specs})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_start_does_not_depend_on_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdr_dist.tables.start.CHUNK", 16)
    spec = SPECS[0]
    whole = torch.cat([rows for _, rows in start_rows(spec, 3, row_start=0, row_end=ROWS)])
    pieces = [
        rows
        for low, high in ((0, 7), (7, 33), (33, ROWS))
        for _, rows in start_rows(spec, 3, row_start=low, row_end=high)
    ]
    assert torch.equal(torch.cat(pieces), whole)
    assert not torch.equal(whole, torch.cat([rows for _, rows in start_rows(spec, 4, row_start=0, row_end=ROWS)]))
    assert abs(float(whole.std()) - 0.1) < 0.02


def test_map_rows_on_aligned_tables() -> None:
    specs = (
        TableSpec(name="now", rows=ROWS, dim=8, features=("user",), init=Init("normal", 1.0)),
        TableSpec(name="last", rows=ROWS, dim=8, features=("user",), like="now", init=Init("normal", 1.0)),
    )
    with group_of_one():
        tables = build_tables(specs, (Stage(name="s", loss=STAGE.loss),), config=TablesConfig(), device=CPU, seed=1)
        now, last = full_table(tables, "now"), full_table(tables, "last")
        tables.map_rows("now", lambda a, b: a * 2 + b, "now", "last")
        assert torch.equal(full_table(tables, "now"), now * 2 + last)
        tables.reset_optimizer()


def test_state_is_not_a_copy() -> None:
    with group_of_one():
        tables = build_tables(SPECS, (STAGE,), config=TablesConfig(lr=0.05), device=CPU, seed=1)
        run_steps(tables, trained_names(SPECS), rank=0, world=1, steps=range(2))
        state = tables.state()
        momentum: Tensor = state["item/momentum1"].local_shards()[0].tensor
        assert float(momentum.sum()) > 0
        tables.reset_optimizer()
        assert float(momentum.sum()) == 0


@pytest.mark.parametrize("placement", ["plain", "table_wise", "data_parallel"])
def test_all_tables_are_read_for_a_while(placement: str) -> None:
    """Of two tables of users the stage trains and reads one."""
    specs = tuple(TableSpec(name=n, rows=ROWS, dim=8, features=("user",), init=Init("normal", 1.0)) for n in "ab")
    stage, batch = Stage(name="s", loss=STAGE.loss, train=("a",), read=("a",)), batch_of(0, 0, 1)
    with group_of_one():
        if placement == "plain":
            tables: Any = PlainTables.build(specs, (stage,), config=TablesConfig(), device=CPU, seed=1)
        else:
            config = TablesConfig.model_validate({"placement": placement})
            tables = build_tables(specs, (stage,), config=config, device=CPU, seed=1)
        tables.start_stage(stage)
        assert list(tables(batch)) == ["a.user"]
        with torch.no_grad(), tables.all_read():
            rows = tables(batch)
            assert sorted(rows) == ["a.user", "b.user"]
            for key, row in rows.items():
                assert torch.equal(row, full_table(tables, key[0])[batch.ids["user"]])
        assert list(tables(batch)) == ["a.user"]
        with pytest.raises(ZeroDivisionError), tables.all_read():
            raise ZeroDivisionError
        assert list(tables(batch)) == ["a.user"]
