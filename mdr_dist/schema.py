"""What a prepared data set holds: domains, features, labels and the id spaces behind them.

A schema is written once, by `mdr prepare` or `mdr synth`, as `schema.json`. Its fingerprint goes into every
checkpoint, so that a model never meets ids that mean something else.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from mdr_dist.errors import UserError

DOMAIN = "domain"
USER_KEY = "user_key"
RESERVED = frozenset({DOMAIN, USER_KEY, "time", "period", "split", "weight"})


class Feature(BaseModel):
    """One input column.

    `kind` is `id` (one id a row), `ids` (a list of ids), `text` (a list of word ids) or `dense` (`width` floats).
    Ids are dense integers in `[0, rows)`. In a `shared` space id 0 is the default row: unseen, rare or missing. With
    `scope="domain"` every domain owns a block of consecutive ids, `starts[k]` being domain k's first and its default.
    Features with the same `vocabulary` share one id space.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["id", "ids", "text", "dense"]
    rows: int = 0
    width: int = 1
    scope: Literal["shared", "domain"] = "shared"
    starts: tuple[int, ...] = ()
    vocabulary: str = ""


class Schema(BaseModel):
    """The frozen description of a data set.

    `user` and `item` name the features in those roles; `user` is the unit of gAUC through the column `user_key`, which
    keeps users apart even where rare ones share the default row. The feature `domain` (kind `id`, one row a domain) is
    always present and is not stored as a column: a shard's path tells it. `labels[0]` is the target; `truth` names the
    label that holds the generator's true probability or rating, if there is one. `periods` is 0 where time is not cut.
    `rows[split][domain]` counts rows. `digests` maps each vocabulary to the sha256 of its keys in id order.
    `grown_from` are the fingerprints of the data sets that this one extends, the first one first: their ids mean the
    same here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    name: str
    domains: tuple[str, ...]
    features: tuple[Feature, ...]
    user: str = "user"
    item: str = "item"
    labels: tuple[str, ...] = ("label",)
    truth: str = ""
    periods: int = 0
    rows: dict[str, dict[str, int]] = {}
    digests: dict[str, str] = {}
    grown_from: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Schema:
        names = [feature.name for feature in self.features]
        if len(set(names)) != len(names) or len(set(self.domains)) != len(self.domains):
            raise ValueError("feature and domain names must be unique")
        missing = {self.user, self.item, DOMAIN} - set(names)
        if missing:
            raise ValueError(f"no feature named {sorted(missing)}")
        for feature in self.features:
            if feature.kind != "dense" and feature.rows < 1:
                raise ValueError(f"feature {feature.name}: rows must be positive")
            if (feature.scope == "domain") != (len(feature.starts) == len(self.domains)):
                raise ValueError(f"feature {feature.name}: one start a domain, and only with scope 'domain'")
        if self[DOMAIN].rows != len(self.domains):
            raise ValueError("feature domain: one row a domain")
        return self

    def __getitem__(self, name: str) -> Feature:
        """The feature of that name; `KeyError` if there is none."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Feature]:
        return {feature.name: feature for feature in self.features}

    def of_kind(self, *kinds: str) -> tuple[Feature, ...]:
        """The features of these kinds, in schema order."""
        return tuple(feature for feature in self.features if feature.kind in kinds)

    @property
    def text(self) -> Feature:
        """The text; a `UserError` if there is none."""
        if texts := self.of_kind("text"):
            return texts[0]
        raise UserError(f"data set {self.name} has no text, which the method reads: its recipe needs a text feature")

    def domain_index(self, name: str) -> int:
        """The number of a domain; a `UserError` names the domains there are."""
        if name not in self.domains:
            raise UserError(
                f"domain {name!r} is not in data set {self.name}: its domains are {', '.join(self.domains)}"
            )
        return self.domains.index(name)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what gives ids their meaning: domains, features, roles, labels and vocabularies.

        Not row counts, nor what the data set has grown from.
        """
        meaning = self.model_dump(
            mode="json", include={"version", "domains", "features", "user", "item", "labels", "digests"}
        )
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
