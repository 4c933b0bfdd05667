"""How items are rated on average, against a sum by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mdr_dist.batch import Extras
from mdr_dist.config import DataConfig
from mdr_dist.data.means import Means
from mdr_dist.data.reader import Reader
from mdr_dist.data.source import Source
from mdr_dist.stage import Slice
from support.documents import Log, rated

Make = Callable[..., Any]
SIZES = {("train", "books", -1): 70, ("train", "films", -1): 40, ("test", "books", -1): 50}


def mean(data: Any, domain: int, item: int, *, upto: int = 10**9) -> float:
    """An item's mean rating, or where it has none that of the domain."""
    rows = Log(data, upto=upto).rows[domain]
    return float(np.mean([row["click"] for row in rows if row["item"] == item] or [row["click"] for row in rows]))


def test_items_means_or_the_domains(tiny: Make) -> None:
    data = tiny(SIZES, change=rated)
    for domain in (0, 1):
        means = Means.open(Reader(data.dataset), domain=domain)
        assert means.items.tolist() == sorted({row["item"] for row in Log(data).rows[domain]})
        asked = np.arange(60)
        assert means.of(asked) == pytest.approx([mean(data, domain, item) for item in asked])
        assert len(means.items) < 30  # some have no row


def test_a_damped_mean_is_as_if_there_were_more_rows(tiny: Make) -> None:
    data = tiny(SIZES, change=rated)
    means, rows = Means.open(Reader(data.dataset), domain=0), Log(data).rows[0]
    usual = float(np.mean([row["click"] for row in rows]))
    own = {item: [row["click"] for row in rows if row["item"] == item] for item in range(60)}
    expected = [float(np.mean([*ratings, usual, usual, usual])) for ratings in own.values()]
    assert means.of(np.arange(60), damping=3) == pytest.approx(expected)


def test_means_up_to_a_period_and_of_no_rows(tiny: Make) -> None:
    data = tiny({("train", "books", 0): 20, ("train", "books", 1): 20, ("train", "films", 1): 9}, change=rated)
    for period in (0, 1):
        means = Means.open(Reader(data.dataset), domain=0, period=period)
        expected = [mean(data, 0, item, upto=period) for item in range(30)]
        assert means.of(np.arange(30)) == pytest.approx(expected)
    none = Means.open(Reader(data.dataset), domain=1, period=0)
    assert none.of(np.array([3, 40])).tolist() == [0, 0]


@pytest.mark.parametrize("split", ["train", "test"])
def test_batches_bring_the_mean_of_the_rows_item(tiny: Make, split: str) -> None:
    data = tiny(SIZES, change=rated)
    source = Source(data.dataset, DataConfig(path=data.path, batch=32), seed=1, extras=Extras(means=True))
    slice_ = Slice(split=split)
    seen = 0
    for batch in source.batches(slice_, stage="s", epoch=0) if split == "train" else source.sweep(slice_):
        assert batch.dense["mean"].shape == (32, 1) and batch.dense["price"].shape == (32, 1)
        for row in (batch.weight > 0).nonzero().squeeze(1).tolist():
            expected = mean(data, int(batch.domain[row]), int(batch.ids["item"][row]))
            assert float(batch.dense["mean"][row]) == pytest.approx(expected)
            seen += 1
    assert seen == sum(rows for key, rows in SIZES.items() if key[0] == split)
