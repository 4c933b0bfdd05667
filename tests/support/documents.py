"""Documents and their parts, put together from the rows written, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from mdr_dist.batch import Batch

Row = dict[str, Any]


def rated(key: tuple[str, str, int], table: pa.Table) -> pa.Table:
    """The table with ratings, 1 to 5 and some by halves, as its first label, and many of few items."""
    rng = np.random.default_rng([len(key[0]), len(key[1]), table.num_rows])
    rating = rng.choice([1, 2, 3, 3.5, 4, 5], table.num_rows)
    first = 30 * (table["item"].to_numpy() // 30)
    item = first + (30 * rng.random(table.num_rows) ** 3).astype(int)
    for name, values in (("click", rating), ("item", item)):
        at = table.column_names.index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    return table


class Log:
    """A data set's training rows, by domain and in order."""

    def __init__(self, tiny: Any, *, domains: tuple[int, ...] = (0, 1), upto: int = 10**9) -> None:
        self.width = tiny.dataset.schema["words"].width
        names = tiny.dataset.schema.domains
        keys = [
            sorted(key for key in tiny.tables if key[:2] == ("train", names[k]) and key[2] <= upto) for k in domains
        ]
        rows = ([tiny.row(serial) for key in own for serial in tiny.tables[key]["serial"].to_pylist()] for own in keys)
        self.rows: dict[int, list[Row]] = dict(zip(domains, rows, strict=True))

    @property
    def common(self) -> set[int]:
        """The users with positive rows in two domains."""
        active = [{row["user_key"] for row in rows if row["click"] > 0.5} for rows in self.rows.values()]
        return {key for own in active for key in own if sum(key in other for other in active) > 1}

    def text(self, rows: list[Row]) -> list[int]:
        """Their reviews one after the other, cut."""
        return [word for row in rows for word in row["words"]][: self.width]

    def user(self, domain: int, key: int) -> list[int]:
        """What a user wrote."""
        return self.text([row for row in self.rows[domain] if row["user_key"] == key])

    def item(self, domain: int, item: int, *, without: int = -1) -> list[int]:
        """What is written about an item, but by one user."""
        return self.text([row for row in self.rows[domain] if row["item"] == item and row["user_key"] != without])

    def alike(self, domain: int, row: Row) -> list[int]:
        """The places of the reviews of which one stands for the row's."""
        for step in (0, 1, -1):
            found = [
                place
                for place, other in enumerate(self.rows[domain])
                if other["item"] == row["item"]
                and other["click"] == row["click"] + step
                and other["user_key"] != row["user_key"]
                and other["user_key"] not in self.common
            ]
            if found:
                return found
        return []


def documents_of(batch: Batch, kind: str) -> list[list[int]]:
    """The word ids of every row's document."""
    assert batch.documents
    words = batch.lists["words"].values
    parts = batch.documents.words.values.split(batch.documents.words.lengths.tolist())
    return [words[parts[place]].tolist() for place in batch.documents.at[kind].tolist()]
