"""Sharded tables against the unsharded twin, the twin's optimizers against numpy, and what is refused."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mdr_dist.batch import Batch, Ragged
from mdr_dist.checkpoint.checkpoint import Checkpoints
from mdr_dist.config import TablesConfig
from mdr_dist.errors import UserError
from mdr_dist.launch.process import group_of_one
from mdr_dist.stage import Init, Slice, Stage, TableSpec
from mdr_dist.tables import PlainTables, build_tables, plan, read_table
from mdr_dist.tables.optim import new_state, update
from mdr_dist.tables.start import start_rows
from support.groups import in_group
from support.jobs import full_table

CPU = torch.device("cpu")
ROWS, STEPS, WORLD, SHARE = 50, 50, 2, 23
SPECS = (
    TableSpec(name="set0/user", rows=ROWS, dim=8, features=("user",), init=Init("normal", 0.1)),
    TableSpec(name="set1/user", rows=ROWS, dim=8, features=("user",), init=Init("uniform", 0.1)),
    TableSpec(name="item", rows=ROWS, dim=16, features=("item", "history"), pool="mean"),
    TableSpec(name="tags", rows=20, dim=8, features=("tags",), pool="sum"),
    TableSpec(name="words", rows=30, dim=8, features=("words",), pool="none"),
    TableSpec(name="words_too", rows=30, dim=8, features=("words",), pool="none"),
    # a list that stays one beside ids; rows stored several times over; fewer rows than processes
    TableSpec(name="sequence", rows=ROWS, dim=10, features=("item", "history"), pool="none"),
    TableSpec(name="bias", rows=ROWS, dim=1, features=("item", "history"), init=Init("normal", 0.1)),
    TableSpec(name="one", rows=1, dim=8, features=("one",)),
    TableSpec(name="frozen", rows=ROWS, dim=8, features=("user",), init=Init("constant", 0.5)),
)
STAGE = Stage(name="joint", loss=lambda rows, batch: {}, train=("[!f]*",), data=Slice())
CASES = [
    (placement, optimizer)
    for placement in ("table_wise", "row_wise", "column_wise", "data_parallel")
    for optimizer in ("sgd", "adagrad", "rowwise_adagrad", "adam")
    if (placement, optimizer) != ("column_wise", "rowwise_adagrad")
]


def specs_for(placement: str, optimizer: str) -> tuple[TableSpec, ...]:
    """Tables that can be placed so over two processes."""
    return tuple(spec for spec in SPECS if placement != "column_wise" or spec.dim % 8 == 0)


def batch_of(step: int, rank: int, world: int) -> Batch:
    """A process's share of a global batch of WORLD * SHARE rows: skewed ids, duplicates, empty lists; row 49 never."""
    rng = np.random.default_rng(step)
    size = WORLD * SHARE
    user, item = (np.minimum(rng.zipf(1.5, size) - 1, ROWS - 2) for _ in range(2))
    lists = {name: [rng.integers(0, rows, rng.integers(0, 4)) for _ in range(size)]
             for name, rows in (("history", ROWS - 1), ("tags", 20), ("words", 30))}  # fmt: skip
    own = range(rank * size // world, (rank + 1) * size // world)
    ragged = {
        name: Ragged(
            torch.from_numpy(np.concatenate([lists[name][i] for i in own]).astype(np.int64)),
            torch.tensor([len(lists[name][i]) for i in own]),
        )
        for name in lists
    }
    place = torch.tensor(list(own))
    ids = {"user": torch.from_numpy(user)[place], "item": torch.from_numpy(item)[place], "one": torch.zeros_like(place)}
    ids = dict(reversed(ids.items())) if step % 2 else ids  # the order of a batch's features must not matter
    zeros = torch.zeros(len(own))
    return Batch(
        ids=ids, lists=ragged, dense={}, labels={"label": zeros}, domain=zeros.long(), user_key=place,
        weight=zeros + 1, position=place, count=size, domains=1,
    )  # fmt: skip


def run_steps(tables: Any, names: set[str], *, rank: int, world: int, steps: range) -> list[float]:
    """Training steps on a fixed quadratic; the loss of each, this process's share."""
    tables.start_stage(STAGE)
    shares = []
    for step in steps:
        rows = tables(batch_of(step, rank, world))
        trained = {key: row for key, row in rows.items() if key.split(".")[0] in names}
        # each lookup has a target of its own, so that no two tables get the same gradient
        losses = [0.2 * ((row - 0.01 * (i + 1)) ** 2).sum() for i, row in enumerate(trained.values())]
        gradients = torch.autograd.grad(sum(losses), list(trained.values()), retain_graph=True)
        torch.autograd.backward(list(trained.values()), [g * world for g in gradients])
        tables.step()
        shares.append(float(torch.stack(losses).sum().detach()))
    return shares


def trained_names(specs: tuple[TableSpec, ...]) -> set[str]:
    return {spec.name for spec in specs} - {"frozen"}


def sharded(placement: str, optimizer: str, folder: str) -> dict[str, Any]:
    """What two processes get, and what they saved halfway."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    specs = specs_for(placement, optimizer)
    tables = build_tables(
        specs, (STAGE,), TablesConfig(placement=placement, optimizer=optimizer, lr=0.05), device=CPU, seed=1
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
    twin = PlainTables.build(specs, (STAGE,), config, device=CPU, seed=1)
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
        tables = build_tables(specs, (STAGE,), config, device=CPU, seed=2)
        tables.load(lambda state: saved.load_tables(1, state))
        for spec in specs:
            rows = read_table(saved.folder(1), spec)
            assert torch.equal(rows, full_table(tables, spec.name))
            part = read_table(saved.folder(1), spec, row_start=min(7, spec.rows - 1), row_end=spec.rows)
            assert torch.equal(part, rows[min(7, spec.rows - 1) :])
        run_steps(tables, trained_names(specs), rank=0, world=1, steps=range(STEPS // 2, STEPS))
        for name in tables.specs:
            assert float((full_table(tables, name) - two[0][placement, optimizer]["tables"][name]).abs().max()) < 1e-5


def test_one_process_repeats_bit_for_bit() -> None:
    results = []
    for _ in range(2):
        with group_of_one():
            tables = build_tables(SPECS, (STAGE,), TablesConfig(lr=0.05), device=CPU, seed=1)
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
        tables = build_tables(specs, (Stage(name="s", loss=STAGE.loss),), TablesConfig(), device=CPU, seed=1)
        now, last = full_table(tables, "now"), full_table(tables, "last")
        tables.map_rows("now", lambda a, b: a * 2 + b, "now", "last")
        assert torch.equal(full_table(tables, "now"), now * 2 + last)
        tables.reset_optimizer()


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad", "adam"])
def test_textbook_optimizers_against_numpy(optimizer: str) -> None:
    rng = np.random.default_rng(0)
    config = TablesConfig(optimizer=optimizer, lr=0.1, eps=1e-6)
    w = rng.normal(size=(4, 3))
    weight = torch.tensor(w, dtype=torch.float64)
    state = {key: value.double() for key, value in new_state(weight, config).items()}
    first, second = np.zeros_like(w), np.zeros_like(w)
    for step in range(1, 6):
        g = rng.normal(size=(4, 3))
        g[2] = 0
        update(weight, torch.tensor(g), state=state, config=config)
        if optimizer == "sgd":
            w = w - 0.1 * g
        elif optimizer == "adagrad":
            first += g**2
            w = w - 0.1 * g / (np.sqrt(first) + 1e-6)
        elif optimizer == "rowwise_adagrad":
            first += (g**2).mean(1, keepdims=True)
            w = w - 0.1 * g / (np.sqrt(first) + 1e-6)
        else:
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
            w = w - 0.1 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-6)
        assert np.allclose(weight.numpy(), w, atol=1e-12)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"placement": "column_wise"}, "rowwise_adagrad"),
        ({"placement": "column_wise", "optimizer": "sgd"}, "multiple of 12"),
        ({"optimizer": "adam", "max_dense_rows": 10}, "use rowwise_adagrad"),
        ({"placement": {"nothing*": "row_wise"}}, r"nothing\*"),
        ({"placement": "data_parallel", "device_gb": 1e-6}, "worker 0 of 3 would hold .*tables.device_gb"),
    ],
)
def test_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        plan(SPECS, TablesConfig(**config), world_size=3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "item"}, "share a name"),
        ({"name": "a.b"}, "without '.'"),
        ({"like": "nowhere"}, "like 'nowhere'"),
        ({"like": "item"}, "same rows and dim"),
        ({"like": "set0/user"}, "whole rows"),
    ],
)
def test_tables_refused(change: dict[str, Any], says: str) -> None:
    specs = (*SPECS[:3], replace(SPECS[1], **{"name": "other", **change}))
    with pytest.raises(UserError, match=says):
        plan(specs, TablesConfig(placement="column_wise", optimizer="sgd"), world_size=2)


def test_a_feature_that_batches_lack_is_named() -> None:
    specs = (TableSpec(name="t", rows=4, dim=8, features=("color",)),)
    with group_of_one():
        sharded_tables = build_tables(specs, (STAGE,), TablesConfig(), device=CPU, seed=1)
        for tables in (sharded_tables, PlainTables(specs)):
            with pytest.raises(UserError, match="table 't' looks up feature 'color', which batches lack; they have"):
                tables(batch_of(0, 0, 1))


@pytest.mark.parametrize("wrong", [ROWS, -1])
def test_an_id_beyond_its_table_stops(wrong: int) -> None:
    batch = batch_of(0, 0, 1)
    batch.ids["user"][3] = wrong
    with group_of_one():
        tables = build_tables(SPECS[:1], (STAGE,), TablesConfig(), device=CPU, seed=1)
        with pytest.raises(RuntimeError):
            tables(batch)


def test_a_stage_that_cuts_through_a_group_is_refused() -> None:
    with group_of_one():
        tables = build_tables(SPECS, (STAGE,), TablesConfig(), device=CPU, seed=1)
        with pytest.raises(ValueError, match="'other' is not among"):
            tables.start_stage(replace(STAGE, name="other", train=("set0/*",)))


def test_lists_that_are_all_empty() -> None:
    batch = batch_of(0, 0, 1)
    none = Ragged(torch.empty(0, dtype=torch.int64), torch.zeros(len(batch), dtype=torch.int64))
    batch = replace(batch, lists=dict.fromkeys(batch.lists, none))
    with group_of_one():
        rows = build_tables(SPECS, (STAGE,), TablesConfig(), device=CPU, seed=1)(batch)
    assert rows["words.words"].shape == (0, 8)
    assert rows["sequence.item"].shape == (len(batch), 10)
    assert float(rows["tags.tags"].abs().max()) == float(rows["item.history"].abs().max()) == 0


def test_folding_keys_changes_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for threads in (0, 1_000):
        monkeypatch.setattr("mdr_dist.tables.collection.FOLD_THREADS", threads)
        with group_of_one():
            tables = build_tables(SPECS, (STAGE,), TablesConfig(lr=0.05), device=CPU, seed=1)
            found.append(tables(batch_of(0, 0, 1)))
            run_steps(tables, trained_names(SPECS), rank=0, world=1, steps=range(20))
            found[-1] |= {name: full_table(tables, name) for name in tables.specs}
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(found[0][key], found[1][key], atol=1e-6) for key in found[0])


def test_the_libraries_leave_logging_alone() -> None:
    program = "import logging, mdr_dist.tables; assert not logging.getLogger().handlers; logging.warning('heard')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "WARNING:root:heard\n"
    own = logging.StreamHandler()
    logging.getLogger().addHandler(own)
    try:
        with group_of_one():
            build_tables(SPECS[:1], (STAGE,), TablesConfig(), device=CPU, seed=1)
        assert own in logging.getLogger().handlers
    finally:
        logging.getLogger().removeHandler(own)


def test_plan_places_by_pattern_and_size() -> None:
    config = TablesConfig(placement={"set*": "row_wise", "item": "data_parallel"}, optimizer="adagrad")
    placed = {row.table: row for row in plan(SPECS, config, world_size=2)}
    assert placed["set0/user"].placement == "row_wise"
    assert placed["set0/user"].bytes_per_worker == ROWS * 8 * 4
    assert placed["item"].bytes_per_worker == 2 * ROWS * 16 * 4
    assert {placed["tags"].rank, placed["words"].rank, placed["frozen"].rank} == {0, 1}
    tight = TablesConfig(device_gb=2 * ROWS * 16 * 4 / 2**30)
    assert {row.table for row in plan(SPECS[:3], tight, world_size=2) if row.placement == "row_wise"} == {"item"}


def test_auto_cuts_the_largest_tables_until_all_fit() -> None:
    size = 100 * 8 * 4
    specs = tuple(TableSpec(name=f"t{i}", rows=100 - i, dim=8, features=("user",)) for i in range(4))
    config = TablesConfig(optimizer="sgd", device_gb=2.6 * size / 2**30)
    free = plan(specs, config, world_size=1 + 1)
    assert {row.placement for row in free} == {"table_wise"}
    uneven = (*specs, TableSpec(name="t4", rows=95, dim=8, features=("user",)))
    placed = plan(uneven, config, world_size=2)
    assert [row.table for row in placed if row.placement == "row_wise"] == ["t0"]
    held = [sum(r.bytes_per_worker for r in placed if r.rank in (-1, rank)) for rank in (0, 1)]
    assert max(held) <= 2.6 * size


def test_state_is_not_a_copy() -> None:
    with group_of_one():
        tables = build_tables(SPECS, (STAGE,), TablesConfig(lr=0.05), device=CPU, seed=1)
        run_steps(tables, trained_names(SPECS), rank=0, world=1, steps=range(2))
        state = tables.state()
        momentum: Tensor = state["item/momentum1"].local_shards()[0].tensor
        assert float(momentum.sum()) > 0
        tables.reset_optimizer()
        assert float(momentum.sum()) == 0
