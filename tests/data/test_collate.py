"""Batches hold what was written: values, shapes, types and padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mdr_dist.config import DataConfig
from mdr_dist.data.source import Source
from mdr_dist.stage import Slice

Make = Callable[..., Any]
SIZES = {("train", "books", -1): 203, ("train", "films", -1): 90, ("train", "music", -1): 37}


def source(data: Any, *, batch: int, streams: int = 0) -> Source:
    return Source(data.dataset, DataConfig(path=data.path, batch=batch, streams=streams), seed=5)


def test_rows_arrive_as_they_were_written(tiny: Make) -> None:
    data = tiny(SIZES)
    for batch in source(data, batch=32).batches(Slice(), stage="joint", epoch=0):
        words, history = (
            torch.split(r.values, r.lengths.tolist()) for r in (batch.lists["words"], batch.lists["history"])
        )
        for i in range(len(batch)):
            if batch.weight[i] == 0:
                continue
            row = data.row(int(batch.ids["serial"][i]))
            assert {n: int(batch.ids[n][i]) for n in ("user", "item", "domain")} == {
                n: row[n] for n in ("user", "item", "domain")
            }
            assert batch.domain[i] == row["domain"] and batch.user_key[i] == row["user_key"]
            assert words[i].tolist() == row["words"] and history[i].tolist() == row["history"]
            assert batch.dense["vector"][i].tolist() == row["vector"] and batch.dense["price"][i].tolist() == [
                row["price"]
            ]
            assert [batch.labels[n][i].item() for n in ("click", "buy")] == [row["click"], row["buy"]]
            assert batch.label is batch.labels["click"]


def test_shapes_dtypes_and_padding(tiny: Make) -> None:
    data = tiny(SIZES)
    last = list(source(data, batch=32, streams=4).batches(Slice(), stage="joint", epoch=0))[-1]
    # 330 rows in four streams: 82, 83, 82, 83, eight a batch: the eleventh holds 2, 3, 2, 3
    real = torch.tensor([1] * 2 + [0] * 6 + [1] * 3 + [0] * 5 + [1] * 2 + [0] * 6 + [1] * 3 + [0] * 5)
    assert last.count == 10 and torch.equal(last.weight, real.float())
    assert last.position[last.weight > 0].tolist() == list(range(10))
    pad = last.weight == 0
    assert set(last.position[pad].tolist()) == {-1} == set(last.user_key[pad].tolist())
    zeros = [*last.ids.values(), *last.labels.values(), *last.dense.values(), last.domain]
    assert all(not column[pad].any() for column in zeros)
    assert all(not r.lengths[pad].any() and int(r.lengths.sum()) == len(r.values) for r in last.lists.values())
    assert set(last.ids) == {"user", "item", "domain", "serial"}
    assert last.dense["price"].shape == (32, 1) and last.dense["vector"].shape == (32, 3)
    whole = [*last.ids.values(), last.domain, last.user_key, last.position, *(r.lengths for r in last.lists.values())]
    assert {t.dtype for t in whole} | {r.values.dtype for r in last.lists.values()} == {torch.int64}
    assert {t.dtype for t in (*last.labels.values(), *last.dense.values(), last.weight)} == {torch.float32}
    assert last.domains == 3


def test_wide_ids_survive(tiny: Make) -> None:
    big = 2**40
    data = tiny({("train", "books", -1): 40})
    schema = data.dataset.schema
    features = tuple(f.model_copy(update={"rows": big + 50}) if f.name == "words" else f for f in schema.features)
    features = tuple(f.model_copy(update={"rows": big + 50}) if f.name == "user" else f for f in features)
    wide = schema.model_copy(update={"features": features})
    wide = type(wide).model_validate(wide.model_dump())
    table = data.tables["train", "books", -1]
    users = pa.array(table["user"].to_numpy().astype(np.int64) + big, pa.int64())
    words = pa.array([[w + big for w in row] for row in table["words"].to_pylist()], pa.list_(pa.int64()))
    table = table.set_column(0, "user", users).set_column(table.column_names.index("words"), "words", words)
    again = data.write(wide, {("train", "books", -1): table})
    batch = next(source(again, batch=40).batches(Slice(), stage="joint", epoch=0))
    serial = batch.ids["serial"].numpy()
    assert np.array_equal(batch.ids["user"].numpy(), users.to_numpy()[serial])
    assert batch.lists["words"].values.tolist() == [w for s in serial for w in words[int(s)].as_py()]
