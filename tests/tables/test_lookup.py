"""From batches to rows: what is missing, wrong, empty or folded; and what the libraries do to logging."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mdr_dist.batch import Ragged
from mdr_dist.config import TablesConfig
from mdr_dist.errors import UserError
from mdr_dist.launch.process import group_of_one
from mdr_dist.stage import TableSpec
from mdr_dist.tables import PlainTables, build_tables
from support.jobs import full_table
from support.tables import CPU, ROWS, SPECS, STAGE, batch_of, run_steps, trained_names


def test_a_feature_that_batches_lack_is_named() -> None:
    specs = (TableSpec(name="t", rows=4, dim=8, features=("color",)),)
    with group_of_one():
        sharded_tables = build_tables(specs, (STAGE,), config=TablesConfig(), device=CPU, seed=1)
        for tables in (sharded_tables, PlainTables(specs)):
            with pytest.raises(UserError, match="table 't' looks up feature 'color', which batches lack; they have"):
                tables(batch_of(0, 0, 1))


@pytest.mark.parametrize("wrong", [ROWS, -1])
def test_an_id_beyond_its_table_stops(wrong: int) -> None:
    batch = batch_of(0, 0, 1)
    batch.ids["user"][3] = wrong
    with group_of_one():
        tables = build_tables(SPECS[:1], (STAGE,), config=TablesConfig(), device=CPU, seed=1)
        with pytest.raises(RuntimeError):
            tables(batch)


def test_a_stage_that_cuts_through_a_group_is_refused() -> None:
    with group_of_one():
        tables = build_tables(SPECS, (STAGE,), config=TablesConfig(), device=CPU, seed=1)
        with pytest.raises(ValueError, match="'other' is not among"):
            tables.start_stage(replace(STAGE, name="other", train=("set0/*",)))


def test_lists_that_are_all_empty() -> None:
    batch = batch_of(0, 0, 1)
    none = Ragged(torch.empty(0, dtype=torch.int64), torch.zeros(len(batch), dtype=torch.int64))
    batch = replace(batch, lists=dict.fromkeys(batch.lists, none))
    with group_of_one():
        rows = build_tables(SPECS, (STAGE,), config=TablesConfig(), device=CPU, seed=1)(batch)
    assert rows["words.words"].shape == (0, 8)
    assert rows["sequence.item"].shape == (len(batch), 10)
    assert float(rows["tags.tags"].abs().max()) == float(rows["item.history"].abs().max()) == 0


def test_folding_keys_changes_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for threads in (0, 1_000):
        monkeypatch.setattr("mdr_dist.tables.collection.FOLD_THREADS", threads)
        with group_of_one():
            tables = build_tables(SPECS, (STAGE,), config=TablesConfig(lr=0.05), device=CPU, seed=1)
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
            build_tables(SPECS[:1], (STAGE,), config=TablesConfig(), device=CPU, seed=1)
        assert own in logging.getLogger().handlers
    finally:
        logging.getLogger().removeHandler(own)


def test_a_block_of_ids_holds_one_domain() -> None:
    """Ids 3, 4, 5 are rows 0, 1, 2 of the block; those of other domains read its row 0."""
    spec = TableSpec(name="mine", rows=3, dim=4, features=("user",), start=3)
    batch = replace(batch_of(0, 0, 1), ids={"user": torch.tensor([3, 5, 2, 6, 0, 4])})
    batch = replace(batch, domain=batch.domain[:6], weight=batch.weight[:6])
    with group_of_one():
        sharded = build_tables((spec,), (STAGE,), config=TablesConfig(), device=CPU, seed=1)
        rows = sharded(batch)["mine.user"]
        whole = full_table(sharded, "mine")
    assert torch.equal(rows, whole[[0, 2, 0, 0, 0, 1]])


def test_only_what_the_stage_reads_is_looked_up() -> None:
    stage = replace(STAGE, train=("set0/*",), read=("set?/user",))
    with group_of_one():
        for tables in (
            build_tables(SPECS, (STAGE, stage), config=TablesConfig(), device=CPU, seed=1),
            PlainTables.build(SPECS, (STAGE, stage), config=TablesConfig(), device=CPU, seed=1),
        ):
            assert {key.partition(".")[0] for key in tables(batch_of(0, 0, 1))} == {spec.name for spec in SPECS}
            tables.start_stage(stage)
            assert set(tables(batch_of(0, 0, 1))) == {"set0/user.user", "set1/user.user"}
