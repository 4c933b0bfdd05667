"""Writes a planted truth as a data set, block by block, in constant memory.

A block of ROW_GROUP rows is the unit of randomness: its generator is made of (seed, domain, split, block), so what is
written depends on nothing but the config.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdr_dist.data.layout import ROW_GROUP, NewDataset, Shard, ShardWriter, arrow_schema
from mdr_dist.data.synthetic.config import SPLITS, SyntheticConfig
from mdr_dist.data.synthetic.fields import Columns, domain_name, schema_features, vocabulary
from mdr_dist.data.synthetic.planted import DomainTruth, Floats, Planted, Stream, generator, probability
from mdr_dist.schema import DOMAIN, USER_KEY, Schema

PAIRS = 20_000  # (user, item) pairs that tell how often two domains' tastes are opposed
LOGIT_BINS, LOGIT_LIMIT = 1 << 16, 32


def synthesize(out: str, config: SyntheticConfig) -> dict[str, Any]:
    """Make the data set `out` (a folder or `s3://` URL that must be empty) and return its report.

    Labels are `label`, drawn with the planted probability, and `truth`, that probability. The report, also kept as
    `report.json`, holds `config`; `domains`: name → `users` seen in training, `rows`, `label_mean` and `bayes_auc` by
    split; `overlap` [K, K]: users seen in both domains; `users_in_several`: their share of all users seen; `opposed`
    [K, K]: the share of random (user, item) pairs whose tastes have opposite signs in the two domains (`null` where
    domains share no items). `bayes_auc` is the AUC of the true log-odds in steps of 1/1024 on the labels written,
    `null` where all labels are alike.
    """
    with NewDataset(out) as new:
        writing = _Writing(new, config)
        for domain in range(config.domains):
            writing.add(domain)
        schema, report = writing.schema(), writing.report()
        new.commit(schema, writing.shards, report)
    return report


class _Writing:
    """A data set on its way to disk and what is counted meanwhile."""

    def __init__(self, new: NewDataset, config: SyntheticConfig) -> None:
        self._new, self._config = new, config
        self._planted = Planted(config)
        self._columns = Columns(config, self._planted)
        self._schema = Schema(
            name=config.name,
            domains=tuple(domain_name(k) for k in range(config.domains)),
            features=schema_features(config),
            labels=("label", "truth"),
            truth="truth",
        )
        self._arrow = arrow_schema(self._schema)
        self._counts = {f.name: np.zeros(f.rows, np.int64) for f in self._schema.features if f.name != DOMAIN}
        self._seen = np.zeros((config.domains, config.users), bool)
        self._likes = np.zeros((config.domains, PAIRS), bool)
        self._domains: dict[str, dict[str, Any]] = {}
        self.shards: list[Shard] = []

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
        self._domains[domain_name(domain)] = entry
        self._likes[domain] = self._taste(truth) > 0

    def _write(self, truth: DomainTruth, *, domain: int, split: str, rows: int) -> NDArray[np.int64]:
        """Write one split; [2, LOGIT_BINS] its negatives and positives by true log-odds."""
        writer = ShardWriter(self._new.root, self._arrow, domain=domain_name(domain), split=split)
        classes = np.zeros((2, LOGIT_BINS), np.int64)
        for block, start in enumerate(range(0, rows, ROW_GROUP)):
            rng = generator(self._config, Stream.ROWS, domain, SPLITS.index(split), block)
            user, item = truth.pairs(rng, count=min(ROW_GROUP, rows - start))
            logit = truth.logit(user, item)
            chance = probability(logit)
            label = rng.random(len(user), dtype=np.float32) < chance
            columns = self._columns.ids(rng, user=user, item=item)
            if split == "train":
                self._count(columns, domain=domain)
            bins = np.clip((logit + LOGIT_LIMIT) * (LOGIT_BINS / (2 * LOGIT_LIMIT)), 0, LOGIT_BINS - 1).astype(np.int64)
            classes += np.bincount(bins + LOGIT_BINS * label, minlength=2 * LOGIT_BINS).reshape(2, LOGIT_BINS)
            extra = {"label": label.astype(np.float32), "truth": chance, USER_KEY: user + 1}
            writer.write(pa.table({name: pa.array(values) for name, values in {**columns, **extra}.items()}))
        self.shards += writer.close()
        return classes

    def _count(self, columns: dict[str, NDArray[np.int32]], *, domain: int) -> None:
        for name, ids in columns.items():
            np.add.at(self._counts[name], ids, 1)
        self._seen[domain, columns["user"] - 1] = True

    def _taste(self, truth: DomainTruth) -> Floats:
        """[PAIRS] the taste of the same random users for the same random items, without appeal and base rate."""
        rng = generator(self._config, Stream.PROBE)
        user, item = rng.integers(self._config.users, size=PAIRS), rng.integers(self._config.items, size=PAIRS)
        return np.einsum("nf,nf->n", truth.user[user], truth.item[item])

    def schema(self) -> Schema:
        """The schema with counts and digests, once every domain is written; writes the vocabularies."""
        digests = {
            feature.vocabulary: self._new.write_vocabulary(
                feature.vocabulary, vocabulary(self._config, feature, self._counts[feature.name])
            )
            for feature in self._schema.features
            if feature.name != DOMAIN
        }
        rows = {split: {name: entry["rows"][split] for name, entry in self._domains.items()} for split in SPLITS}
        return self._schema.model_copy(update={"rows": rows, "digests": digests})

    def report(self) -> dict[str, Any]:
        """What was made, with nothing in it that differs between two runs."""
        domains_seen = self._seen.sum(axis=0)
        opposed = (self._likes[:, None] != self._likes[None]).mean(axis=2).round(4).tolist()
        return {
            "config": self._config.model_dump(mode="json"),
            "domains": self._domains,
            "overlap": [[int(np.count_nonzero(a & b)) for b in self._seen] for a in self._seen],
            "users_in_several": float((domains_seen > 1).sum() / max((domains_seen > 0).sum(), 1)),
            "opposed": opposed if self._config.shared_items else None,
        }


def _auc(classes: NDArray[np.int64]) -> float | None:
    """The AUC of a binned score from its [2, bins] counts of negatives and positives; ties count half."""
    negative, positive = classes
    if not negative.any() or not positive.any():
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (negative.sum() * float(positive.sum())))
