"""The id columns of a synthetic data set: user, item, and what is known about them and the moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import ndtri

from mdr_dist.data.synthetic.config import SyntheticConfig
from mdr_dist.data.synthetic.planted import Ints, Planted, Population, Stream, generator
from mdr_dist.schema import DOMAIN, Feature

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Field:
    """An extra column: `levels` values that depend on the user, the item or nothing (`context`).

    `number` 0 tells the group; j > 0 the quantile of the j-th shared factor, or noise where there is no such factor.
    """

    name: str
    of: Literal["user", "item", "context"]
    number: int
    levels: int


def extra_fields(config: SyntheticConfig) -> tuple[Field, ...]:
    """The columns beside user and item, in schema order."""
    fields = [Field("user_group", "user", 0, config.groups), Field("item_category", "item", 0, config.groups)]
    number = 1
    while len(fields) < config.features - 2:
        fields += [Field(f"{of}_{number}", of, number, config.levels) for of in ("user", "item", "context")]
        number += 1
    return tuple(fields[: config.features - 2])


def schema_features(config: SyntheticConfig) -> tuple[Feature, ...]:
    """The features of the schema, the domain last. Id 0, or the first of a domain's block, is the default."""
    blocks = 1 if config.shared_items else config.domains
    starts = () if config.shared_items else tuple(range(0, blocks * (config.items + 1), config.items + 1))
    item = Feature(
        name="item",
        kind="id",
        rows=blocks * (config.items + 1),
        scope="domain" if starts else "shared",
        starts=starts,
        vocabulary="item",
    )
    extra = (
        Feature(name=field.name, kind="id", rows=field.levels + 1, vocabulary=field.name)
        for field in extra_fields(config)
    )
    user = Feature(name="user", kind="id", rows=config.users + 1, vocabulary="user")
    return (user, item, *extra, Feature(name=DOMAIN, kind="id", rows=config.domains))


def own_items(users: int, items: tuple[int, ...]) -> tuple[Feature, ...]:
    """User, item and domain where each domain has items of its own, so many.

    Id 0, or the first of a domain's items, is the default.
    """
    *starts, rows = np.cumsum([0, *(size + 1 for size in items)]).tolist()
    item = Feature(name="item", kind="id", rows=rows, scope="domain", starts=tuple(starts), vocabulary="item")
    user = Feature(name="user", kind="id", rows=users + 1, vocabulary="user")
    return user, item, Feature(name=DOMAIN, kind="id", rows=len(items))


class Columns:
    """Turns drawn pairs of one domain into id columns. Ids are entity numbers plus one."""

    def __init__(self, config: SyntheticConfig, planted: Planted) -> None:
        self._config, self._planted = config, planted
        self._fields = extra_fields(config)
        self._user = self._tables("user", planted.users, space=0)
        self._item: dict[str, Ids] = {}
        self._space = -1
        self._first = 1

    def enter(self, domain: int) -> None:
        """Get ready for a domain's rows."""
        space = 0 if self._config.shared_items else 1 + domain
        if space != self._space:
            self._item = self._tables("item", self._planted.items(domain), space=space)
            self._first = 1 if space == 0 else 1 + domain * (self._config.items + 1)
            self._space = space

    def ids(self, rng: np.random.Generator, *, user: Ints, item: Ints) -> dict[str, Ids]:
        """Column → [N] int32 ids of the rows that pair `user` [N] with `item` [N]."""
        columns = {"user": (user + 1).astype(np.int32), "item": (item + self._first).astype(np.int32)}
        for field in self._fields:
            if field.of == "context":
                columns[field.name] = rng.integers(1, field.levels + 1, size=len(user), dtype=np.int32)
            else:
                columns[field.name] = (
                    self._user[field.name][user] if field.of == "user" else self._item[field.name][item]
                )
        return columns

    def _tables(self, of: str, population: Population, *, space: int) -> dict[str, Ids]:
        """Field → [entities] its id for each user or item."""
        edges = ndtri(np.arange(1, self._config.levels) / self._config.levels)
        tables: dict[str, Ids] = {}
        for field in (field for field in self._fields if field.of == of):
            if field.number == 0:
                value = population.group
            elif field.number <= self._config.shared_dim:
                value = np.searchsorted(edges, population.factors[:, field.number - 1])
            else:
                rng = generator(self._config, Stream.FIELDS, space, field.number, int(of == "user"))
                value = rng.integers(field.levels, size=len(population.group))
            tables[field.name] = (value + 1).astype(np.int32)
        return tables


def vocabulary(feature: Feature, counts: Ints, *, domains: tuple[str, ...]) -> pa.Table:
    """`id, key, count` of every id but the defaults; keys are `u7` or `i7` for id 7, `v7` for a field's value.

    Where each domain has its own items, `domain` is there too and keys number a domain's items from 1.
    """
    starts = np.array(feature.starts or (0,))
    ids = np.setdiff1d(np.arange(feature.rows), starts)
    block = np.searchsorted(starts, ids, side="right") - 1
    prefix = {"user": "u", "item": "i"}.get(feature.name, "v")
    number = pa.array(ids - starts[block]).cast(pa.string())
    key = pc.binary_join_element_wise(pa.scalar(prefix), number, "")  # type: ignore[attr-defined]
    table = pa.table({"id": pa.array(ids), "key": key, "count": pa.array(counts[ids])})
    if feature.starts:
        table = table.append_column("domain", pa.array(domains).take(pa.array(block)))
    return table


def domain_name(domain: int) -> str:
    """The name of a domain by its number."""
    return f"d{domain}"
