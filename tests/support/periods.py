"""A data set whose time is cut into periods, with histories, as `prepare` writes one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mdr_dist.data import layout
from mdr_dist.schema import Feature, Schema

USERS, ITEMS, EVENTS, TASTES, LAST = 60, 120, 28, 4, 6  # events a user; id 0 of users and items is the default row
SCHEMA = Schema(
    name="periods",
    domains=("books", "films"),
    features=(
        Feature(name="user", kind="id", rows=USERS + 1),
        Feature(name="item", kind="id", rows=ITEMS + 1, vocabulary="item"),
        Feature(name="domain", kind="id", rows=2),
        Feature(name="history", kind="ids", rows=ITEMS + 1, width=LAST, vocabulary="item"),
    ),
    periods=4,
)


class Event(NamedTuple):
    """A row; `time` counts the user's events."""

    time: int
    user: int
    item: int
    domain: str
    label: float
    history: list[int]

    @property
    def place(self) -> tuple[str, str, int]:
        """Domain, split and period: a user's last two events are the test."""
        return self.domain, "test" if self.time >= EVENTS - 2 else "train", self.time * SCHEMA.periods // EVENTS


def write_periods(path: str, *, histories: bool = True) -> str:
    """Four periods of two domains that share their items, each user with a taste for a quarter of them; the path."""
    features = SCHEMA.features if histories else SCHEMA.features[:-1]
    schema = SCHEMA.model_copy(update={"features": features})
    by_place = defaultdict[tuple[str, str, int], list[Event]](list)
    for event in sorted(_events()):
        by_place[event.place].append(event)
    counts: dict[str, dict[str, int]] = {"train": {}, "test": {}}
    with layout.NewDataset(path) as new:
        shards: list[layout.Shard] = []
        for (domain, split, period), events in sorted(by_place.items()):
            columns = layout.arrow_schema(schema)
            writer = layout.ShardWriter(new.root, columns, domain=domain, split=split, period=period)
            values = {name: [getattr(event, name) for event in events] for name in columns.names if name != "user_key"}
            values["user_key"] = values["user"]
            writer.write(pa.table([pa.array(values[entry.name], entry.type) for entry in columns], schema=columns))
            shards += writer.close()
            counts[split][domain] = counts[split].get(domain, 0) + len(events)
        new.commit(schema.model_copy(update={"rows": counts}), shards, {})
    return path


def _events() -> Iterator[Event]:
    draw = np.random.default_rng(0)
    for user in range(1, USERS + 1):
        liking = np.where(np.arange(1, ITEMS + 1) % TASTES == user % TASTES, 8.0, 1.0)
        items = draw.choice(np.arange(1, ITEMS + 1), EVENTS, replace=False, p=liking / liking.sum()).tolist()
        labels = (draw.random(EVENTS) < 0.9).astype(float).tolist()
        domains = draw.choice(SCHEMA.domains, EVENTS).tolist()
        liked: list[int] = []
        for time, (item, label, domain) in enumerate(zip(items, labels, domains, strict=True)):
            yield Event(time, user, item, domain, label, liked[-LAST:])
            liked += [item] if label else []
