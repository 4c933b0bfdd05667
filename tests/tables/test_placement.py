"""Where tables go, and what is refused."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from mdr_dist.config import TablesConfig
from mdr_dist.errors import UserError
from mdr_dist.schema import Feature, Schema
from mdr_dist.stage import TableSpec
from mdr_dist.tables import check_tables, plan
from support.tables import ROWS, SPECS


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"placement": "column_wise"}, "rowwise_adagrad"),
        ({"placement": "column_wise", "optimizer": "sgd"}, "multiple of 12"),
        ({"optimizer": "adam", "max_dense_rows": 10}, "use rowwise_adagrad"),
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


@pytest.mark.parametrize(
    ("features", "rows", "says"),
    [
        (("user",), 9, "'t' has 9 rows, but its feature 'user' has 10 ids"),
        (("user", "negative_0"), 19, "feature 'negative_0' has 20 ids"),
        (("age",), 50, "'age', which is dense"),
        (("user", "item", "negative_3", "sampled"), 20, ""),
    ],
)
def test_features_against_the_schema(features: tuple[str, ...], rows: int, says: str) -> None:
    schema = Schema(
        name="s",
        domains=("a",),
        features=(
            Feature(name="user", kind="id", rows=10),
            Feature(name="item", kind="id", rows=20),
            Feature(name="age", kind="dense"),
            Feature(name="domain", kind="id", rows=1),
        ),
    )
    specs = (TableSpec(name="t", rows=rows, dim=8, features=features),)
    with pytest.raises(UserError, match=says) if says else nullcontext():
        check_tables(specs, TablesConfig(), schema)


def test_a_placement_of_no_table_is_refused() -> None:
    schema = Schema(name="s", domains=("a",), features=tuple(
        Feature(name=name, kind="id", rows=1) for name in ("user", "item", "domain")
    ))  # fmt: skip
    config = TablesConfig(placement={"one": "row_wise", "nothing*": "row_wise"})
    with pytest.raises(UserError, match=r"pattern 'nothing\*' fits no table; there are one"):
        check_tables((TableSpec(name="one", rows=1, dim=8, features=("user",)),), config, schema)


def test_plan_places_by_pattern_and_size() -> None:
    config = TablesConfig(placement={"set*": "row_wise", "item": "data_parallel"}, optimizer="adagrad")
    placed = {row.table: row for row in plan(SPECS, config, world_size=2)}
    assert placed["set0/user"].placement == "row_wise"
    assert placed["set0/user"].bytes_per_worker == ROWS * 8 * 4
    assert placed["item"].bytes_per_worker == 2 * ROWS * 16 * 4
    assert {placed[name].rank for name in ("tags", "words", "frozen", "block0", "block1")} == {0, 1}
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


@pytest.mark.parametrize(("rows", "world", "placement"), [
    (1, 1, "row_wise"), (1, 2, "table_wise"), (5, 4, "table_wise"), (7, 4, "row_wise"), (8, 4, "row_wise"),
])  # fmt: skip
def test_no_process_gets_a_shard_without_rows(rows: int, world: int, placement: str) -> None:
    """5 rows over 4 processes would be 2, 2, 1 and none."""
    spec = TableSpec(name="t", rows=rows, dim=8, features=("user",))
    assert plan((spec,), TablesConfig(placement="row_wise"), world_size=world)[0].placement == placement
