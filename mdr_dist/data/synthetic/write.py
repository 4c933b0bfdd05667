"""A synthetic data set on its way to disk, and what is counted meanwhile: the same for any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdr_dist.data.layout import NewDataset, Shard, ShardWriter, arrow_schema
from mdr_dist.data.synthetic.config import SPLITS
from mdr_dist.data.synthetic.fields import vocabulary
from mdr_dist.data.synthetic.planted import Config
from mdr_dist.schema import DOMAIN, Feature, Schema


class Writing:
    """Shards, counts and report of a data set. A subclass says what a domain's rows are."""

    def __init__(
        self,
        new: NewDataset,
        config: Config,
        *,
        domains: tuple[str, ...],
        features: tuple[Feature, ...],
        labels: tuple[str, ...],
        truth: str = "",
        periods: int = 0,
    ) -> None:
        self._new, self._config, self.domains = new, config, domains
        self._schema = Schema(
            name=config.name, domains=self.domains, features=features, labels=labels, truth=truth, periods=periods
        )
        self._arrow = arrow_schema(self._schema, time=periods > 0)
        self._counts = {f.name: np.zeros(f.rows, np.int64) for f in features if f.name != DOMAIN}
        self._seen = np.zeros((len(self.domains), config.users), bool)
        self._entries: dict[str, dict[str, Any]] = {}
        self.shards: list[Shard] = []

    def add(self, domain: int) -> None:
        """Write all rows of a domain."""
        raise NotImplementedError

    def writer(self, domain: int, split: str, *, period: int = -1) -> ShardWriter:
        """What writes a split of a domain, or one period of it."""
        return ShardWriter(self._new.root, self._arrow, domain=self.domains[domain], split=split, period=period)

    def count(self, columns: dict[str, NDArray[np.int32]], *, domain: int) -> None:
        """Count the ids of training rows."""
        for name, ids in columns.items():
            np.add.at(self._counts[name], ids, 1)
        self._seen[domain, columns["user"] - 1] = True

    def schema(self) -> Schema:
        """The schema with counts and digests, once every domain is written; writes the vocabularies."""
        digests = {
            feature.vocabulary: self._new.write_vocabulary(feature.vocabulary, self.vocabulary(feature))
            for feature in self._schema.features
            if feature.name != DOMAIN
        }
        splits = [split for split in SPLITS if split in next(iter(self._entries.values()))["rows"]]
        rows = {split: {name: entry["rows"][split] for name, entry in self._entries.items()} for split in splits}
        return self._schema.model_copy(update={"rows": rows, "digests": digests})

    def vocabulary(self, feature: Feature) -> pa.Table:
        """The vocabulary of a feature's space."""
        return vocabulary(feature, self._counts[feature.name], domains=self.domains)

    def report(self) -> dict[str, Any]:
        """What was made, with nothing in it that differs between two runs."""
        seen = self._seen.sum(axis=0)
        return {
            "config": self._config.model_dump(mode="json"),
            "domains": self._entries,
            "overlap": [[int(np.count_nonzero(a & b)) for b in self._seen] for a in self._seen],
            "users_in_several": float((seen > 1).sum() / max((seen > 0).sum(), 1)),
        }


def table(columns: dict[str, NDArray[Any]]) -> pa.Table:
    """Arrays as a table."""
    return pa.table({name: pa.array(values) for name, values in columns.items()})
