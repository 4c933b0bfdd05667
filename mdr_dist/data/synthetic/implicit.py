"""Implicit feedback of a planted truth, written block by block, in constant memory.

A block of users is the unit of randomness: its generator is made of (seed, domain, block), so what is written depends
on nothing but the config. A block's rows are shuffled, then cut into splits: a user's rows are spread over the row
groups of the block, some sixteen, and not one user's rows follow another's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mdr_dist.data.layout import NewDataset
from mdr_dist.data.synthetic.choice import Block, Choices
from mdr_dist.data.synthetic.config import SPLITS, ImplicitConfig
from mdr_dist.data.synthetic.fields import Ids, own_items
from mdr_dist.data.synthetic.oracle import Oracle
from mdr_dist.data.synthetic.planted import Ints, Stream, generator
from mdr_dist.data.synthetic.write import Writing, table
from mdr_dist.schema import USER_KEY


class Implicit(Writing):
    """Rows of items that users took, each pair of a domain once over all splits; `label` is 1.

    A domain's report has `users` and `items` seen in training, `rows` by split, `rows_per_user`: training rows a user
    seen, and `bayes_ndcg@10`: what ranking by the planted probability reaches on a sample of users, of whom
    `bayes_users` have an item to find (`null` where nobody has).
    """

    def __init__(self, new: NewDataset, config: ImplicitConfig) -> None:
        features = own_items(config.users, config.items)
        super().__init__(new, config, domains=config.domains, features=features, labels=("label",))
        self._config = config
        self._choices = Choices(config)
        self._first = [1 + start for start in self._schema["item"].starts]

    def add(self, domain: int) -> None:
        """Write all splits of a domain."""
        truth, rows = self._choices.domain(domain), self._config.rows(domain)
        writers = {split: self.writer(domain, split) for split in SPLITS}
        oracle = Oracle(truth, generator(self._config, Stream.PROBE, domain), tests=rows["test"])
        for block in truth.blocks():
            rng = generator(self._config, Stream.ROWS, domain, block.number)
            user, item = truth.take(rng, block)
            order = rng.permutation(len(user))
            for split, part in _cut(order, block, rows):
                oracle.keep(user[part], item[part], test=split == "test")
                columns = self._columns(user[part], item[part], domain=domain)
                if split == "train":
                    self.count(columns, domain=domain)
                label = np.ones(len(part), np.float32)
                writers[split].write(table({**columns, "label": label, USER_KEY: user[part] + 1}))
        self.shards += [shard for writer in writers.values() for shard in writer.close()]
        first = self._first[domain]
        seen = self._counts["item"][first : first + self._config.items[domain]] > 0
        ndcg, measured = oracle.ndcg(seen)
        users = int(self._seen[domain].sum())
        self._entries[self.domains[domain]] = {
            "users": users,
            "items": int(seen.sum()),
            "rows": rows,
            "rows_per_user": round(rows["train"] / users, 4),
            "bayes_ndcg@10": ndcg,
            "bayes_users": measured,
        }

    def _columns(self, user: Ints, item: Ints, *, domain: int) -> dict[str, Ids]:
        return {"user": (user + 1).astype(np.int32), "item": (item + self._first[domain]).astype(np.int32)}


def _cut(order: Ints, block: Block, rows: dict[str, int]) -> Iterator[tuple[str, Ints]]:
    """A block's rows, in this order, by split: in proportion, and over all blocks exactly `rows`."""
    total, at = sum(rows.values()), 0
    for split in ("val", "test", "train"):
        upto, before = (rows[split] * end // total for end in (block.stop, block.start))
        stop = len(order) if split == "train" else at + upto - before
        yield split, order[at:stop]
        at = stop
