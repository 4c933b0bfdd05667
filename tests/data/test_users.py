"""Users of a split, against a count by hand over the rows written; and stages that go over users."""

from __future__ import annotations

import numpy as np
import pytest

from mdr_dist.batch import Extras
from mdr_dist.config import DataConfig
from mdr_dist.data import users as module
from mdr_dist.data.source import Source
from mdr_dist.stage import Slice

SIZES = {("train", "books", -1): 30, ("train", "films", -1): 20, ("val", "books", -1): 9, ("val", "films", -1): 12}


def _active(tiny, split: str) -> dict[int, set[int]]:
    """User key → the domains of its positive rows."""
    found: dict[int, set[int]] = {}
    for serial in tiny.serials(split):
        row = tiny.row(serial)
        if row[tiny.dataset.schema.labels[0]] > 0.5:
            found.setdefault(row["user_key"], set()).add(row["domain"])
    return found


def _source(tiny, **settings: object) -> Source:
    data = DataConfig.model_validate({"path": tiny.path, "batch": 8, **settings})
    return Source(tiny.dataset, data, seed=1, extras=Extras(active=True))


@pytest.mark.parametrize("waiting", [0, 1 << 20])
@pytest.mark.parametrize("split", ["train", "val"])
def test_users_and_the_domains_they_are_active_in(
    tiny, split: str, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WAITING", waiting)
    users, expected = _source(tiny(SIZES)).users(split), _active(tiny(SIZES), split)
    assert users.keys.tolist() == sorted(expected)
    for key, active in zip(users.keys, users.active, strict=True):
        assert set(np.flatnonzero(active)) == expected[key]
    nobody = int(users.keys[-1]) + 1
    assert users.active_of(np.array([nobody, -1])).sum() == 0
    assert (users.active_of(users.keys[::-1]) == users.active[::-1]).all()


def test_an_epoch_of_users_has_each_once(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 7)  # several portions
    made, slice_ = tiny(SIZES), Slice(unit="user")
    expected = _active(made, "train")
    orders = []
    for epoch in range(2):
        seen = []
        for batch in _source(made).batches(slice_, stage="s", epoch=epoch):
            real = batch.weight > 0
            seen += batch.user_key[real].tolist()
            for key, active in zip(batch.user_key[real].tolist(), batch.dense["active"][real], strict=True):
                assert set(active.nonzero().squeeze(1).tolist()) == expected[key]
        assert sorted(seen) == sorted(expected)
        orders.append(seen)
    assert orders[0] != orders[1]


def test_a_sweep_over_users_has_each_once(tiny) -> None:
    seen = [
        key for batch in _source(tiny(SIZES)).sweep(Slice(split="val", unit="user")) for key in batch.user_key.tolist()
    ]
    assert sorted(key for key in seen if key >= 0) == sorted(_active(tiny(SIZES), "val"))


def test_rows_know_where_their_users_are_active(tiny) -> None:
    made = tiny(SIZES)
    expected = _active(made, "train")
    for batch in _source(made).batches(Slice(), stage="s", epoch=0):
        for key, active in zip(batch.user_key.tolist(), batch.dense["active"], strict=True):
            assert set(active.nonzero().squeeze(1).tolist()) == expected.get(key, set())
