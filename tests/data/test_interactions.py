"""Interactions against sets written out from the rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mdr_dist.data.interactions import Interactions
from mdr_dist.data.reader import Reader

Make = Callable[..., Any]
SIZES = {(split, domain, p): 60 for split in ("train", "val") for domain in ("books", "films") for p in (0, 1, 2)}


def rows(data: Any, split: str, periods: tuple[int, ...]) -> list[dict[str, Any]]:
    """The rows of domain films."""
    return [
        row
        for (part, domain, period), table in data.tables.items()
        if (part, domain) == (split, "films") and period in periods
        for row in table.to_pylist()
    ]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize(("period", "upto", "periods"), [(None, False, (0, 1, 2)), (1, False, (1,)), (1, True, (0, 1))])
def test_pairs_are_those_of_the_rows(
    tiny: Make, split: str, default: bool, period: int | None, upto: bool, periods: tuple[int, ...]
) -> None:
    data = tiny(SIZES)
    start = data.dataset.schema["item"].starts[1]
    found = Interactions.open(
        Reader(data.dataset), domain=1, split=split, period=period, upto=upto, default=default
    )  # fmt: skip
    expected = [row for row in rows(data, split, periods) if default or row["item"] != start]
    positive = [row for row in expected if row["click"] > 0.5]
    taken: dict[int, set[int]] = defaultdict(set)
    for row in positive:
        taken[row["user_key"]].add(row["item"])
    assert found.items.tolist() == sorted({row["item"] for row in expected})
    assert found.users.tolist() == sorted(taken)
    assert found.rows == len(positive) > len(found.gaps) == sum(map(len, taken.values()))
    asked = np.array([7, -1, *sorted(taken)[::-1], 10**6, 7])  # in any order, some unknown, one twice
    row, place = found.positives(asked)
    pairs = list(zip(row.tolist(), found.items[place].tolist(), strict=True))
    assert pairs == [(at, item) for at, user in enumerate(asked.tolist()) for item in sorted(taken.get(user, ()))]


def test_nothing_there(tiny: Make) -> None:
    def no_clicks(key: tuple[str, str, int], table: pa.Table) -> pa.Table:
        at = table.column_names.index("click")
        return table.set_column(at, table.schema.field(at), pa.array(np.zeros(len(table), np.float32)))

    data = tiny({("train", "books", -1): 40}, change=no_clicks)
    for split, items in (("train", 20), ("test", 0)):
        found = Interactions.open(Reader(data.dataset), domain=0, split=split)
        assert len(found.users) == found.rows == 0
        assert (len(found.items) > items) == (split == "train")
        assert [len(part) for part in found.positives(np.array([7, 14]))] == [0, 0]
