"""A method that retrieves, data sets for it given row by row, and full ranking as a program of sets and fractions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import comb, log2
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.data import layout
from mdr_dist.data.reader import Dataset
from mdr_dist.methods.base import Method, MethodConfig
from mdr_dist.schema import Feature, Schema
from mdr_dist.stage import Init, Losses, Rows, Slice, Stage, TableSpec

DOMAINS = ("books", "films")
USERS, ITEMS = 60, 400  # ids; items a domain, the first of which is the default row
KEY = 10  # a user's key is so many times the id


class Row(NamedTuple):
    """One row of the log; `item` counts within the domain, 0 being the default row."""

    split: str
    domain: str
    user: int
    item: int
    label: float = 1.0
    period: int = -1


def periodic_log(seed: int, *, periods: int, rows: int = 150) -> list[Row]:
    """Training rows of both domains, `rows` and 50 more in every period, some of label 0; new items in each."""
    rng, log = np.random.default_rng(seed), list[Row]()
    for period in range(periods):
        for domain in DOMAINS:
            count = rows + 50 * period
            user, item = rng.integers(1, USERS, count), np.minimum(rng.zipf(1.3, count), 40 + 20 * period)
            label = (rng.random(count) < 0.8).astype(float)
            drawn = zip(user.tolist(), item.tolist(), label.tolist(), strict=True)
            log += [Row("train", domain, *found, period) for found in drawn]
    return log


def schema_of(*, labelled: bool = True, shared: bool = False) -> Schema:
    """Users shared, items by domain unless they are `shared` too, and features that a vector may depend on."""
    return Schema(
        name="log",
        domains=DOMAINS,
        features=(
            Feature(name="user", kind="id", rows=USERS),
            Feature(name="item", kind="id", rows=ITEMS)
            if shared
            else Feature(name="item", kind="id", rows=ITEMS * 2, scope="domain", starts=(0, ITEMS)),
            Feature(name="domain", kind="id", rows=2),
            Feature(name="tags", kind="ids", rows=ITEMS),
            Feature(name="price", kind="dense"),
        ),
        labels=("label",) if labelled else (),
    )


def write_log(path: str, rows: Iterable[Row], *, labelled: bool = True, shared: bool = False) -> Dataset:
    """A data set of these rows, in this order. An item's tags are its number and the next, its price the number."""
    schema, by_shard = schema_of(labelled=labelled, shared=shared), defaultdict[tuple[str, str, int], list[Row]](list)
    for row in rows:
        by_shard[row.split, row.domain, row.period].append(row)
    with layout.NewDataset(path) as new:
        shards: list[layout.Shard] = []
        for (split, domain, period), members in by_shard.items():
            columns = layout.arrow_schema(schema)
            writer = layout.ShardWriter(new.root, columns, domain=domain, split=split, period=period)
            writer.write(_table(schema, members, start=0 if shared else DOMAINS.index(domain) * ITEMS))
            shards += writer.close()
        counts: dict[str, dict[str, int]] = {split: {} for split, _, _ in by_shard}
        for (split, domain, _), members in by_shard.items():
            counts[split][domain] = counts[split].get(domain, 0) + len(members)
        periods = 1 + max(period for _, _, period in by_shard)
        new.commit(schema.model_copy(update={"rows": counts, "periods": periods}), shards, {})
    return Dataset.open(path)


def _table(schema: Schema, rows: list[Row], *, start: int) -> pa.Table:
    columns = {
        "user": [row.user for row in rows],
        "item": [start + row.item for row in rows],
        "tags": [[row.item, (row.item + 1) % ITEMS] for row in rows],
        "price": [float(row.item) for row in rows],
        "label": [row.label for row in rows],
        "user_key": [KEY * row.user for row in rows],
    }
    fields = layout.arrow_schema(schema)
    return pa.table([pa.array(columns[entry.name], entry.type) for entry in fields], schema=fields)


class FactorsConfig(MethodConfig):
    """`levels` 0: any values, else integers of that many kinds, so that scores tie; `constant`: all scores alike.

    `scale` is that of the tables' start and of what other features add.
    """

    dim: int = 8
    levels: int = 0
    constant: bool = False
    scale: float = 1.0


class Factors(Method):
    """Matrix factorisation with BPR, whose item vectors depend on every kind of feature."""

    Config = FactorsConfig
    config: FactorsConfig
    task = "retrieve"

    def tables(self) -> tuple[TableSpec, ...]:
        dim, init = self.config.dim, Init("normal", self.config.scale)
        rows = {name: self.schema[name].rows for name in ("user", "item", "tags")}
        return (
            TableSpec(name="user", rows=rows["user"], dim=dim, features=("user",), init=init),
            TableSpec(name="item", rows=rows["item"], dim=dim, features=("item", "negative_0"), init=init),
            TableSpec(name="tags", rows=rows["tags"], dim=dim, features=("tags",), init=init),
        )

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        found = self._levelled(rows["user.user"]) + self.config.scale * batch.domain[:, None]
        return found * (not self.config.constant)

    def item_vector(self, rows: Rows, batch: Batch) -> Tensor:
        found = self._levelled(rows["item.item"] + rows["tags.tags"])
        return found + self.config.scale * (batch.dense["price"] % 3 - 1)

    def _levelled(self, x: Tensor) -> Tensor:
        return (x * self.config.levels / 4).round() if self.config.levels else x

    def score(self, rows: Rows, batch: Batch) -> Tensor:
        return (self.user_vector(rows, batch) * self.item_vector(rows, batch)).sum(1)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        apart = rows["item.item"] - rows["item.negative_0"]
        return {"bpr": batch.mean(torch.nn.functional.softplus(-(rows["user.user"] * apart).sum(1)))}

    def stages(self) -> tuple[Stage, ...]:
        return (Stage(name="joint", loss=self.losses, data=Slice(negatives=1), train=("user", "item")),)


class Distances(Factors):
    """Ranks by no inner product: near items first in the first domain, far ones in the second."""

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        found = super().user_vector(rows, batch)
        return torch.cat([found, found[:, :1]], dim=1)  # another width than the items'

    def pair_scores(self, user_RD: Tensor, item_ND: Tensor, *, domain: int) -> Tensor:
        apart = user_RD[..., :, None, :-1] - item_ND[..., None, :, :]
        return apart.square().sum(-1) * (2 * domain - 1) * (not self.config.constant)


Table = NDArray[np.float64]


def scores_of(method: Factors, tables: dict[str, Tensor], domain: int) -> Table:
    """[users, items] of a domain by whole tables."""
    number = torch.arange(ITEMS)
    tags = tables["tags"][number] + tables["tags"][(number + 1) % ITEMS]
    start = domain * ITEMS if len(tables["item"]) > ITEMS else 0
    items = method._levelled(tables["item"][start : start + ITEMS] + tags) + (number % 3 - 1)[:, None]
    users = method._levelled(tables["user"]) + domain
    if isinstance(method, Distances):
        apart = users.double()[:, None] - items.double()
        return apart.square().sum(2).numpy() * (1 if domain else -1) * (not method.config.constant)
    return (users.double() @ items.double().T).numpy() * (not method.config.constant)


@dataclass
class Oracle:
    """What ranking must find in one domain, from the log and a table of scores, by sets and binomials.

    `everywhere`: candidates are the items of all domains but those taken earlier in any.
    """

    rows: list[Row]
    split: str
    domain: str
    ks: tuple[int, ...]
    skipped: int = 0
    unrankable: int = 0
    everywhere: bool = False
    lists: dict[int, tuple[set[int], set[int]]] = field(default_factory=dict)  # user → candidates, truths

    def __post_init__(self) -> None:
        here = [row for row in self.rows if row.domain == self.domain]
        offering = self.rows if self.everywhere else here
        self.catalogue = {row.item for row in offering if row.split == "train"} - {0}
        earlier = {"val": ("train",), "train": ()}.get(self.split, ("train", "val"))
        for user in sorted({row.user for row in here if row.split == self.split and row.label > 0.5}):
            own = [row for row in offering if row.user == user and row.label > 0.5]
            candidates = self.catalogue - {row.item for row in own if row.split in earlier}
            chosen = {row.item for row in own if row.split == self.split and row.domain == self.domain}
            self.unrankable += len(chosen - candidates)
            self.lists[user] = candidates, chosen & candidates
            self.skipped += not chosen & candidates

    def users(self) -> list[int]:
        """Those with something to find."""
        return [user for user, (_, truths) in self.lists.items() if truths]

    def metrics(self, user: int, scores: Table) -> dict[str, float]:
        """One user's expected metrics; `scores` [items]."""
        candidates, truths = self.lists[user]
        found: dict[str, float] = {}
        groups = self._groups(candidates, truths, scores)
        for k in self.ks:
            hits = gain = hit = reciprocal = 0.0
            for above, size, t in groups:
                places = range(above + 1, min(above + size, k) + 1)
                hits += t * len(places) / size
                gain += t / size * sum(1 / log2(place + 1) for place in places)
            above, size, t = next(group for group in groups if group[2])
            inside = max(0, min(k - above, size))
            hit = 1 - comb(size - t, inside) / comb(size, inside)
            first = [comb(size - j, t - 1) / comb(size, t) for j in range(1, inside + 1)]
            reciprocal = sum(chance / (above + j) for j, chance in enumerate(first, start=1))
            ideal = sum(1 / log2(place + 1) for place in range(1, min(k, len(truths)) + 1))
            found |= {f"recall@{k}": hits / len(truths), f"precision@{k}": hits / k, f"ndcg@{k}": gain / ideal}
            found |= {f"hit@{k}": hit, f"mrr@{k}": reciprocal}
        return found

    def _groups(self, candidates: set[int], truths: set[int], scores: Table) -> list[tuple[int, int, int]]:
        """(above, size, truths) of each group of equal scores, best first."""
        groups: list[tuple[int, int, int]] = []
        above = 0
        for value in sorted({float(scores[item]) for item in candidates}, reverse=True):
            members = {item for item in candidates if scores[item] == value}
            groups.append((above, len(members), len(members & truths)))
            above += len(members)
        return groups

    def means(self, scores: Table) -> dict[str, float]:
        """The domain's metrics with their random level; `scores` [users, items]."""
        users = self.users()
        own = [self.metrics(user, scores[user]) for user in users]
        random = [self.metrics(user, 0 * scores[user]) for user in users]
        names = own[0]
        return {name: float(np.mean([each[name] for each in own])) for name in names} | {
            f"random/{name}": float(np.mean([each[name] for each in random])) for name in names
        }
