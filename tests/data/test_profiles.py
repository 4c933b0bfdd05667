"""Profiles are the first rows, whole, whatever row group they lie in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mdr_dist.data.profiles import Profiles
from mdr_dist.data.reader import Reader

Make = Callable[..., Any]


@pytest.mark.parametrize("by", ["user_key", "item"])
def test_first_rows_in_the_order_of_keys(tiny: Make, by: str) -> None:
    data = tiny({("train", "books", -1): 30, ("train", "films", -1): 100, ("test", "films", -1): 40})
    groups = data.dataset.select("train", domains=(1,), period=None)
    assert len(groups) > 5
    whole = data.tables["train", "films", -1].to_pylist()
    first = {row[by]: row for row in reversed(whole)}
    keys = np.array(sorted(first))
    profiles = Profiles(Reader(data.dataset), groups, by=by, keys=keys, domain=1)
    wanted = np.array([3, 0, len(keys) - 1, 7])
    batch = profiles.batch(wanted, size=6, first=2, count=8, also=("negative_0",))

    assert batch.weight.tolist() == [1, 1, 1, 1, 0, 0] and batch.position.tolist() == [2, 3, 4, 5, -1, -1]
    assert batch.count == 8 and batch.domain.tolist() == [1] * 6
    assert torch.equal(batch.ids["negative_0"], batch.ids["item"])
    rows = [first[key] for key in keys[[*wanted, 0, 0]].tolist()]
    for name in ("user", "item", "serial"):
        assert batch.ids[name].tolist() == [row[name] for row in rows]
    for name in ("history", "words"):
        lists = batch.lists[name].values.split(batch.lists[name].lengths.tolist())
        assert [part.tolist() for part in lists] == [row[name] for row in rows]
    assert batch.dense["vector"].tolist() == [row["vector"] for row in rows]
    assert batch.dense["price"][:, 0].tolist() == [row["price"] for row in rows]
    assert batch.labels["click"].tolist() == [row["click"] for row in rows]
    assert batch.user_key.tolist() == [row["user_key"] for row in rows]


def test_some_keys_only(tiny: Make) -> None:
    """Keys may be fewer than those that occur, and reading ends with the last one found."""
    data = tiny({("train", "books", -1): 100})
    rows = data.tables["train", "books", -1].to_pylist()
    keys = np.array(sorted({row["user_key"] for row in rows[:10]}))
    groups = data.dataset.groups
    reader, read = Reader(data.dataset), []
    columns = reader.columns
    reader.columns = lambda group, keep=True: read.append(group.number) or columns(group, keep=keep)  # type: ignore[method-assign]
    profiles = Profiles(reader, groups, by="user_key", keys=keys, domain=1)
    batch = profiles.batch(np.arange(len(keys)), size=len(keys), first=0, count=len(keys))
    assert batch.user_key.tolist() == keys.tolist()
    assert read == [0]
    Profiles(reader, groups, by="user_key", keys=keys, domain=1)
    assert read == [0]  # mapped
    Profiles(reader, groups, by="user_key", keys=keys[1:], domain=1)
    assert read == [0, 0]  # other keys are others
