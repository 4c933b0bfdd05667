"""Labelled rows of a planted truth, written block by block, in constant memory.

A block of ROW_GROUP rows is the unit of randomness: its generator is made of (seed, domain, split, block), so what is
written depends on nothing but the config.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdr_dist.data.layout import ROW_GROUP, NewDataset
from mdr_dist.data.synthetic.config import SPLITS, SyntheticConfig
from mdr_dist.data.synthetic.fields import Columns, domain_name, schema_features
from mdr_dist.data.synthetic.planted import DomainTruth, Floats, Planted, Stream, generator, probability
from mdr_dist.data.synthetic.write import Writing, table
from mdr_dist.schema import USER_KEY

PAIRS = 20_000  # (user, item) pairs that tell how often two domains' tastes are opposed
LOGIT_BINS, LOGIT_LIMIT = 1 << 16, 32


class Labelled(Writing):
    """Rows of pairs that a domain shows, each with a label.

    Labels are `label`, drawn with the planted probability, and `truth`, that probability. A domain's report has `users`
    seen in training, `rows`, `label_mean` and `bayes_auc` by split. `bayes_auc` is the AUC of the true log-odds in
    steps of 1/1024 on the labels written, `null` where all labels are alike. `opposed` [K, K] is the share of random
    (user, item) pairs whose tastes have opposite signs in the two domains (`null` where domains share no items).
    """

    def __init__(self, new: NewDataset, config: SyntheticConfig) -> None:
        names, features = tuple(domain_name(k) for k in range(config.domains)), schema_features(config)
        super().__init__(new, config, domains=names, features=features, labels=("label", "truth"), truth="truth")
        self._config = config
        self._planted = Planted(config)
        self._columns = Columns(config, self._planted)
        self._likes = np.zeros((config.domains, PAIRS), bool)

    def add(self, domain: int) -> None:
        """Write all splits of a domain."""
        truth = self._planted.domain(domain)
        self._columns.enter(domain)
        train = int(self._planted.rows[domain])
        rows = {"train": train, "val": round(train * self._config.val), "test": round(train * self._config.test)}
        entry: dict[str, Any] = {"users": 0, "rows": {}, "label_mean": {}, "bayes_auc": {}}
        for split in SPLITS:
            count = max(rows[split], 1)
            classes = self._write(truth, domain=domain, split=split, rows=count)
            entry["rows"][split] = count
            entry["label_mean"][split] = float(classes[1].sum() / count)
            entry["bayes_auc"][split] = _auc(classes)
        entry["users"] = int(self._seen[domain].sum())
        self._entries[self.domains[domain]] = entry
        self._likes[domain] = self._taste(truth) > 0

    def _write(self, truth: DomainTruth, *, domain: int, split: str, rows: int) -> NDArray[np.int64]:
        """Write one split; [2, LOGIT_BINS] its negatives and positives by true log-odds."""
        writer = self.writer(domain, split)
        classes = np.zeros((2, LOGIT_BINS), np.int64)
        for block, start in enumerate(range(0, rows, ROW_GROUP)):
            rng = generator(self._config, Stream.ROWS, domain, SPLITS.index(split), block)
            user, item = truth.pairs(rng, count=min(ROW_GROUP, rows - start))
            logit = truth.logit(user, item)
            chance = probability(logit)
            label = rng.random(len(user), dtype=np.float32) < chance
            columns = self._columns.ids(rng, user=user, item=item)
            if split == "train":
                self.count(columns, domain=domain)
            bins = np.clip((logit + LOGIT_LIMIT) * (LOGIT_BINS / (2 * LOGIT_LIMIT)), 0, LOGIT_BINS - 1).astype(np.int64)
            classes += np.bincount(bins + LOGIT_BINS * label, minlength=2 * LOGIT_BINS).reshape(2, LOGIT_BINS)
            extra = {"label": label.astype(np.float32), "truth": chance, USER_KEY: user + 1}
            writer.write(table({**columns, **extra}))
        self.shards += writer.close()
        return classes

    def _taste(self, truth: DomainTruth) -> Floats:
        """[PAIRS] the taste of the same random users for the same random items, without appeal and base rate."""
        rng = generator(self._config, Stream.PROBE)
        user, item = rng.integers(self._config.users, size=PAIRS), rng.integers(self._config.items, size=PAIRS)
        return np.einsum("nf,nf->n", truth.user[user], truth.item[item])

    def report(self) -> dict[str, Any]:
        """What was made."""
        opposed = (self._likes[:, None] != self._likes[None]).mean(axis=2).round(4).tolist()
        return {**super().report(), "opposed": opposed if self._config.shared_items else None}


def _auc(classes: NDArray[np.int64]) -> float | None:
    """The AUC of a binned score from its [2, bins] counts of negatives and positives; ties count half."""
    negative, positive = classes
    if not negative.any() or not positive.any():
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (negative.sum() * float(positive.sum())))
