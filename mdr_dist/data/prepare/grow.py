"""A data set that goes on from an earlier one: whatever that one has numbered keeps its number.

Users, keys and domains of the earlier data set come first, in its order, with those that are new behind them; ranges
and scales of features stay as they were; its periods begin when they began. So rows that are in both are encoded alike,
but for keys that only now reach `min_count` or the training split, and models of the one go on with the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mdr_dist import storage
from mdr_dist.config import validated
from mdr_dist.data.layout import REPORT, read_schema, read_users, read_vocabulary
from mdr_dist.data.prepare.dates import date, moment
from mdr_dist.data.prepare.recipe import Recipe
from mdr_dist.errors import UserError
from mdr_dist.schema import Schema

# what must be said in both recipes alike, beside the features; files, tables, rows, domains and periods may be more
_SAME = (
    "user",
    "item",
    "labels",
    "within",
    "derive",
    "min_count",
    "time",
    "dedupe",
    "core",
    "split",
    "negatives",
    "seed",
)


@dataclass(frozen=True)
class Earlier:
    """The data set to go on from: its schema, its report and the recipe it was made by."""

    path: str
    schema: Schema
    report: dict[str, Any]
    recipe: Recipe

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Those of all data sets that this one extends, and its own."""
        return (*self.schema.grown_from, self.schema.fingerprint)

    def vocabulary(self, space: str) -> pa.Table:
        """`id, key` of a vocabulary, without the default row."""
        return read_vocabulary(self.path, space).select(["id", "key"]).slice(1)

    def users(self) -> pa.Table:
        """`user_key, key` of every user."""
        return read_users(self.path)

    def edges(self, feature: str) -> list[float]:
        """Where the ranges of a feature with `buckets` meet."""
        return self.report["features"][feature]["edges"]

    def scale(self, feature: str) -> tuple[float, float]:
        """Mean and deviation of a feature that is standardised."""
        told = self.report["features"][feature]
        return told["mean"], told["deviation"]

    def order(self, domains: tuple[str, ...], where: str) -> tuple[str, ...]:
        """These domains with the earlier ones first; `UserError` if one of those is not there."""
        for domain in self.schema.domains:
            if domain not in domains:
                raise UserError(
                    f"{where}: domain {domain!r} of {self.path} is not kept; a data set that grows keeps its domains"
                )
        return self.schema.domains + tuple(domain for domain in domains if domain not in self.schema.domains)

    def check_starts(self, starts: tuple[int, ...], where: str) -> None:
        """`UserError` unless the earlier periods begin when they began, and new ones after its last row."""
        told = self.report.get("periods", [])
        begun = [moment(period["from"], f"{self.path}/{REPORT}: periods") for period in told[1:]]
        for place, (ours, theirs) in enumerate(zip(starts, begun, strict=False)):
            if ours != theirs:
                raise UserError(
                    f"{where}: periods.starts.{place}: {date(ours)}, but period {place + 1} of {self.path} starts at "
                    f"{date(theirs)}; a data set that grows keeps the starts of its periods"
                )
        if len(starts) < len(begun):
            raise UserError(f"{where}: periods: {len(starts) + 1}, but {self.path} has {len(begun) + 1}; keep them all")
        if told and starts[len(begun) :] and date(starts[len(begun)]) <= told[-1]["to"]:
            raise UserError(
                f"{where}: periods.starts.{len(begun)}: {date(starts[len(begun)])} is not after the last row of "
                f"{self.path}, {told[-1]['to']}, which is in period {len(begun)} there"
            )


def open_earlier(path: str, recipe: Recipe, where: str) -> Earlier:
    """The data set at `path`, if `recipe` makes one that goes on from it; else a `UserError` that tells why not."""
    schema, file = read_schema(path), storage.join(path, REPORT)
    report = storage.read_json(file)
    if not isinstance(report, dict) or "recipe" not in report:
        raise UserError(f"{path}: was not made by `mdr prepare`; only what a recipe made can grow")
    old = validated(Recipe, report["recipe"], where=f"{file}: recipe")
    _check_features(recipe, old, where=where, path=path)
    for key in _SAME:
        ours, theirs = getattr(recipe, key), getattr(old, key)
        if ours != theirs:
            raise UserError(f"{where}: {key}: {_shown(ours)}, but {path} was made with {_shown(theirs)}")
    if bool(recipe.periods) != bool(old.periods):
        cuts, other = ("periods cut", "does not") if recipe.periods else ("no periods cut", "does")
        raise UserError(f"{where}: periods: here {cuts} time and the recipe of {path} {other}")
    if recipe.periods and recipe.periods.count:
        starts = ", ".join(period["from"] for period in report["periods"][1:])
        raise UserError(
            f"{where}: periods: a `count` would cut the rows of {path} anew; give the dates at which periods begin in "
            f"`starts`, first its own: {starts}"
        )
    return Earlier(path, schema, report, recipe)


def _check_features(recipe: Recipe, old: Recipe, *, where: str, path: str) -> None:
    names, others = [f.name for f in recipe.features], [f.name for f in old.features]
    for name in (*names, *others):
        if name not in names or name not in others:
            has = "has no such feature" if name in names else "has it"
            raise UserError(f"{where}: features: {name!r}: {path} {has}; a data set that grows keeps its features")
    for ours, theirs in zip(recipe.features, old.features, strict=True):
        if ours.name != theirs.name:
            raise UserError(f"{where}: features: {ours.name!r} stands where {path} has {theirs.name!r}")
        for key, value in ours.model_dump().items():
            if value != (other := getattr(theirs, key)):
                raise UserError(f"{where}: features: {ours.name!r}: {key} is {value!r}, in {path} it is {other!r}")
        if ours.scope == "domain":
            raise UserError(
                f"{where}: features: {ours.name!r}: with scope `domain` every domain has a block of ids, which cannot "
                "grow in place; a data set that grows needs scope `shared`"
            )


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str | int | dict | None) else f"({value})"
