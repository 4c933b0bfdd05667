"""Ratings with reviews of a planted truth, written block by block, in constant memory.

A block of users is the unit of randomness: its generator is made of (seed, domain, block), so what is written depends
on nothing but the config. A block's rows are shuffled. A target row's split is its user's; source rows all train.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdr_dist.data.layout import NewDataset, ShardWriter
from mdr_dist.data.ragged import starts_of
from mdr_dist.data.synthetic.config import SPLITS
from mdr_dist.data.synthetic.fields import own_items
from mdr_dist.data.synthetic.opinion import TEST, TRAIN, VAL, DomainOpinion, Opinions, Words
from mdr_dist.data.synthetic.planted import Ints, Stream, generator
from mdr_dist.data.synthetic.review_config import ReviewConfig
from mdr_dist.data.synthetic.write import Writing, table
from mdr_dist.schema import USER_KEY, Feature

PIECE = 1 << 14  # rows written at a time, so that memory holds few reviews
TEXT = "review"
Rows = dict[str, NDArray[Any]]


class Reviewing(Writing):
    """Rows of items that users rated, each pair of a domain once.

    Labels are `rating` and `truth`, the mean of the ratings that the planted truth gives. A domain's report has `users`
    and `items` seen in training, `users_held_out` by split, and by split `rows`, `rating_mean` and `bayes_mse`, the
    mean squared error of the truth on the ratings written: no model beats it but by luck (`null` without rows).
    `transport` [M, M] tells which share of what users care for in the source (row) goes to which aspect of the target.
    """

    def __init__(self, new: NewDataset, config: ReviewConfig) -> None:
        self._words = Words(config)
        ids = own_items(config.users, config.items)
        text = Feature(name=TEXT, kind="text", rows=1 + self._words.count, width=config.document, vocabulary=TEXT)
        super().__init__(
            new,
            config,
            domains=config.domains,
            features=(*ids, text),
            labels=("rating", "truth"),
            truth="truth",
        )
        self._config, self._opinions = config, Opinions(config)
        self._first = [1 + start for start in self._schema["item"].starts]

    def add(self, domain: int) -> None:
        """Write all splits of a domain."""
        truth, opinion = self._opinions.choice(domain), self._opinions.domain(domain)
        writers = [self.writer(domain, split) for split in SPLITS]
        sums, users = np.zeros((len(SPLITS), 3)), np.zeros((len(SPLITS), self._config.users), bool)
        for block in truth.blocks():
            rng = generator(self._config, Stream.ROWS, domain, block.number)
            user, item = truth.take(rng, block)
            order = rng.permutation(len(user))
            held = self._opinions.held[user[order]] if domain else np.full(len(order), TRAIN)
            for split, writer in enumerate(writers):
                part = order[held == split]
                users[split, user[part]] = True
                pairs = user[part], item[part]
                sums[split] += self._write(writer, rng, opinion=opinion, pairs=pairs, counted=split == TRAIN)
        self.shards += [shard for writer in writers for shard in writer.close()]
        self._tell(domain, sums, users=users.sum(1))

    def _write(
        self,
        writer: ShardWriter,
        rng: np.random.Generator,
        *,
        opinion: DomainOpinion,
        pairs: tuple[Ints, Ints],
        counted: bool,
    ) -> NDArray[np.float64]:
        """Write what users think of items; how many rows, the sums of ratings and of the truth's squared errors."""
        sums = np.zeros(3)
        for start in range(0, len(pairs[0]), PIECE):
            user, item = (ids[start : start + PIECE] for ids in pairs)
            rows = self._rows(rng, opinion, user=user, item=item)
            if counted:
                self.count({name: rows[name] for name in ("user", "item", TEXT)}, domain=opinion.number)
            rating, missed = rows["rating"], rows["rating"] - rows["truth"]
            sums += len(user), rating.sum(), (missed * missed).sum()
            writer.write(_table(rows))
        return sums

    def _rows(self, rng: np.random.Generator, opinion: DomainOpinion, *, user: Ints, item: Ints) -> Rows:
        """Column → what is in it; of the reviews the words of all rows, and `lengths` of them."""
        score = opinion.score(user, item)
        rating = opinion.rate(rng, score)
        words, lengths = opinion.write(rng, user, item)
        return {
            "user": (user + 1).astype(np.int32),
            "item": (item + self._first[opinion.number]).astype(np.int32),
            "rating": rating,
            "truth": opinion.truth(score),
            USER_KEY: user + 1,
            TEXT: words.astype(np.int32),
            "lengths": lengths,
        }

    def _tell(self, domain: int, sums: NDArray[np.float64], *, users: Ints) -> None:
        """Put into the report what was written: by split what `_write` gives [3], and how many users."""
        first = self._first[domain]
        rows = sums[:, 0].astype(int).tolist()
        mean, bayes = ([total / n if n else None for total, n in zip(own, rows, strict=True)] for own in sums.T[1:])
        self._entries[self.domains[domain]] = {
            "users": int(users[TRAIN]),
            "items": int((self._counts["item"][first : first + self._config.items[domain]] > 0).sum()),
            "rows": dict(zip(SPLITS, rows, strict=True)),
            "users_held_out": {"val": int(users[VAL]), "test": int(users[TEST])},
            "rating_mean": dict(zip(SPLITS, mean, strict=True)),
            "bayes_mse": dict(zip(SPLITS, bayes, strict=True)),
        }

    def vocabulary(self, feature: Feature) -> pa.Table:
        """Of the feature's space: of words as `prepare` writes it, with the padding."""
        if feature.name != TEXT:
            return super().vocabulary(feature)
        ids = pa.array(np.arange(feature.rows))
        return pa.table({"id": ids, "key": self._words.keys(), "count": pa.array(self._counts[TEXT])})

    def report(self) -> dict[str, Any]:
        """What was made."""
        return {**super().report(), "transport": self._opinions.transport.round(4).tolist()}


def _table(rows: Rows) -> pa.Table:
    columns = {name: values for name, values in rows.items() if name not in (TEXT, "lengths")}
    starts = starts_of(rows["lengths"]).astype(np.int32)
    return table(columns).append_column(TEXT, pa.ListArray.from_arrays(pa.array(starts), pa.array(rows[TEXT])))
