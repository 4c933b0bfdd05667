"""The input of a method that flattens embedded features into one vector a row.

Shape letters: B rows, D width of an embedding, I inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.errors import UserError
from mdr_dist.schema import DOMAIN, Feature, Schema
from mdr_dist.stage import Init, Rows, TableSpec


class Fields:
    """Chosen features of a schema: the tables they need and the vector they make.

    `names` empty: every feature. The feature `domain` is in exactly where `domain` says so. Features with the same
    vocabulary share a table, which has the vocabulary's name. Lists are averaged; a dense feature is taken as the data
    set holds it. `width` counts the inputs one row makes.

    Raises `UserError` for a name that the schema lacks, or if nothing is left.
    """

    def __init__(self, schema: Schema, names: tuple[str, ...] = (), *, dim: int, domain: bool = True) -> None:
        known = [feature.name for feature in schema.features]
        if unknown := set(names) - set(known):
            raise UserError(f"features: data set {schema.name} has no {min(unknown)!r}; it has {', '.join(known)}")
        chosen = set(names or known) - {DOMAIN} | ({DOMAIN} if domain else set())
        if not chosen:
            raise UserError(f"features: none left; data set {schema.name} has {', '.join(known)}")
        features = [feature for feature in schema.features if feature.name in chosen]
        self._dim = dim
        self._dense = [feature for feature in features if feature.kind == "dense"]
        self._spaces: dict[str, list[Feature]] = {}
        for feature in features:
            if feature.kind != "dense":
                self._spaces.setdefault(feature.vocabulary or feature.name, []).append(feature)
        embedded = sum(len(readers) for readers in self._spaces.values())
        self.width = dim * embedded + sum(feature.width for feature in self._dense)

    def tables(self, prefix: str = "", *, init: Init) -> tuple[TableSpec, ...]:
        """One set of tables, named `<prefix><vocabulary>`."""
        return tuple(
            table(prefix + space, readers, dim=self._dim, init=init) for space, readers in self._spaces.items()
        )

    def vector(self, rows: Rows, batch: Batch, prefix: str = "") -> Tensor:
        """[B, I]: the embeddings of one set side by side, then the dense features."""
        keys = [f"{prefix}{space}.{feature.name}" for space, readers in self._spaces.items() for feature in readers]
        return torch.cat([rows[key] for key in keys] + [batch.dense[feature.name] for feature in self._dense], dim=1)


def table(name: str, readers: list[Feature], *, dim: int, init: Init) -> TableSpec:
    """The table that these features of one id space look up in; lists come back as their mean."""
    return TableSpec(
        name=name,
        rows=max(feature.rows for feature in readers),
        dim=dim,
        features=tuple(feature.name for feature in readers),
        pool="sum" if all(feature.kind == "id" for feature in readers) else "mean",
        init=init,
    )
