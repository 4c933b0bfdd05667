"""Interactions that drift, written period by period and block by block, in constant memory.

A block of users is the unit of randomness: its generator is made of (seed, domain, block), so what is written depends
on nothing but the config. A block's rows of a period are shuffled; a period's shards hold one block after the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.layout import NewDataset, ShardWriter
from mdr_dist.data.synthetic.config import DriftConfig
from mdr_dist.data.synthetic.drift import USERS, DriftDomain, Groups, People
from mdr_dist.data.synthetic.fields import domain_name
from mdr_dist.data.synthetic.planted import Ints, Stream, generator, shares
from mdr_dist.data.synthetic.sampled import ROWS, Sampled
from mdr_dist.data.synthetic.write import Writing, table
from mdr_dist.errors import UserError
from mdr_dist.schema import DOMAIN, USER_KEY, Feature

START, PERIOD = 1_577_836_800, 7 * 86_400  # 2020-01-01, and a week


class Drifting(Writing):
    """Rows of items that users took, each pair of a domain once; `label` is 1, `time` lies in the period's week.

    The report has `periods`: `rows`, `users`, `items` of each over all domains, `new_users` and `new_items` that were
    in none before, and by domain its `rows` and what `Sampled` measured. `first_seen` are the last period's new ones.
    """

    def __init__(self, new: NewDataset, config: DriftConfig) -> None:
        names = tuple(domain_name(k) for k in range(config.domains))
        super().__init__(
            new, config, domains=names, features=_features(config), labels=("label",), periods=config.periods
        )
        self._config = config
        self._groups = Groups.draw(config, Stream.USERS)
        self._rows = shares(config.rows, np.ones(config.domains * config.periods), least=1)
        self._there = {name: np.zeros((config.periods, len(self._counts[name])), bool) for name in ("user", "item")}
        self._periods: list[dict[str, Any]] = [{} for _ in range(config.periods)]

    def add(self, domain: int) -> None:
        """Write all periods of a domain."""
        config, name = self._config, self.domains[domain]
        truth = DriftDomain.draw(config, domain, name=name)
        sampled, rows = Sampled(truth), self._rows.reshape(config.domains, -1)[domain]
        writers = [self.writer(domain, "train", period=period) for period in range(config.periods)]
        dealt = self._dealt(domain, rows)
        for block in range(dealt.shape[1]):
            self._block(truth, block, domain=domain, rows=(dealt[:, block], rows), writers=writers, sampled=sampled)
        self.shards += [shard for writer in writers for shard in writer.close()]
        for period, told in enumerate(self._periods):
            told[name] = {"rows": int(rows[period]), **sampled.told(period)}
        first = 1 + domain * config.items
        users = int(self._seen[domain].sum())
        self._entries[name] = {
            "users": users,
            "items": int((self._counts["item"][first : first + config.items] > 0).sum()),
            "rows": {"train": int(rows.sum())},
            "rows_per_user": round(int(rows.sum()) / users, 4),
        }

    def _dealt(self, domain: int, rows: Ints) -> Ints:
        """[T, blocks] the rows of each block, by how active its users are; `UserError` for a period without users."""
        weights = np.stack([self._weights(domain, block).sum(1) for block in range(_blocks(self._config))], axis=1)
        if not (weights.sum(1) > 0).all():
            period = int((weights.sum(1) > 0).argmin())
            raise UserError(f"users: none is active in period {period}; use more of them, or a larger `active`")
        rng = generator(self._config, Stream.ROWS, domain, 0)
        return np.stack([rng.multinomial(n, w / w.sum()) for n, w in zip(rows, weights, strict=True)])

    def _weights(self, domain: int, block: int) -> NDArray[np.float64]:
        """[T, U] how much of a period's rows a block's users take, in proportion."""
        config, born = self._config, self._users(block).born
        rng = generator(config, Stream.HOMES, domain, block)
        weight = np.exp(config.user_spread * rng.standard_normal(len(born)))
        active = rng.random((config.periods, len(born))) < config.active
        return np.where(active & (born <= np.arange(config.periods)[:, None]), weight, 0.0)

    def _users(self, block: int) -> People:
        count = min(USERS, self._config.users - block * USERS)
        rng = generator(self._config, Stream.USERS, 1 + block)
        return People.draw(self._config, rng, groups=self._groups, count=count)

    def _block(
        self,
        truth: DriftDomain,
        block: int,
        *,
        domain: int,
        rows: tuple[Ints, Ints],
        writers: list[ShardWriter],
        sampled: Sampled,
    ) -> None:
        """Write a block's rows of all periods, of which `rows` tells the numbers [T], its own and all blocks'."""
        rng = generator(self._config, Stream.ROWS, domain, 1 + block)
        probe = generator(self._config, Stream.PROBE, domain, block)
        users, weights = self._users(block), self._weights(domain, block)
        taken = np.zeros(0, np.int64)
        for period, (own, whole) in enumerate(zip(*rows, strict=True)):
            if not own:
                continue
            count = rng.multinomial(own, weights[period] / weights[period].sum())
            user, item = truth.take(rng, period, users=users.at(period), count=count, taken=taken)
            taken = np.sort(np.concatenate([taken, user * self._config.items + item]))
            order = rng.permutation(len(user))
            user, item = user[order], item[order]
            asked = -(-ROWS * own // max(whole, ROWS))
            sampled.add(probe, period, users=users, user=user[:asked], item=item[:asked], taken=taken)
            self._write(writers[period], rng, user=user + block * USERS, item=item, at=(domain, period))

    def _write(
        self, writer: ShardWriter, rng: np.random.Generator, *, user: Ints, item: Ints, at: tuple[int, int]
    ) -> None:
        domain, period = at
        ids = {"user": user + 1, "item": item + 1 + domain * self._config.items}
        columns = {name: values.astype(np.int32) for name, values in ids.items()}
        self.count(columns, domain=domain)
        for name, values in columns.items():
            self._there[name][period, values] = True
        time = START + period * PERIOD + rng.integers(PERIOD, size=len(user))
        label = np.ones(len(user), np.float32)
        writer.write(table({**columns, "label": label, USER_KEY: user + 1, "time": time}))

    def report(self) -> dict[str, Any]:
        """What was made."""
        found = [
            {"period": period, "rows": sum(d["rows"] for d in t.values())} for period, t in enumerate(self._periods)
        ]
        for word, there in self._there.items():
            before = np.logical_or.accumulate(there)
            for period, entry in enumerate(found):
                old = int(before[period - 1].sum()) if period else 0
                entry |= {f"{word}s": int(there[period].sum()), f"new_{word}s": int(before[period].sum()) - old}
        periods = [{**entry, "domains": told} for entry, told in zip(found, self._periods, strict=True)]
        last = found[-1]
        first_seen = {"users": last["new_users"], "items": last["new_items"]}
        return {**super().report(), "periods": periods, "first_seen": first_seen}


def _blocks(config: DriftConfig) -> int:
    return -(-config.users // USERS)


def _features(config: DriftConfig) -> tuple[Feature, ...]:
    """User, item and domain; id 0 is the default."""
    item = Feature(name="item", kind="id", rows=config.domains * config.items + 1, vocabulary="item")
    user = Feature(name="user", kind="id", rows=config.users + 1, vocabulary="user")
    return user, item, Feature(name=DOMAIN, kind="id", rows=config.domains)
