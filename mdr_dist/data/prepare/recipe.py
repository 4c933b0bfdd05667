"""A recipe: how raw files become a data set. One YAML mapping, checked whole before anything is read.

Names that stand for a column are columns of the log, of its side tables or of `derive`. `derive`, `where`, `labels` and
`dedupe.value` are SQL expressions of duckdb over those columns: trusted code of the recipe's author, which is evaluated
without access to files or network.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from mdr_dist.config import Section
from mdr_dist.data.prepare.feature import FeatureRecipe
from mdr_dist.data.prepare.sections import (
    Core,
    Dedupe,
    Domain,
    Files,
    Negatives,
    Periods,
    Split,
    Table,
    Time,
)
from mdr_dist.schema import DOMAIN, RESERVED

Bound = Annotated[float, Field(allow_inf_nan=True)]  # of labels, which need not have one


class Recipe(Section):
    """A whole recipe. `folder` names the raw folder under `$MDR_DATA`, where it is not the recipe's own folder.

    Several entries of `log` have the same columns. `min_count` is the default of all features. `where` rows are kept,
    the others counted. `within` bounds labels, `{rating: [1, 5]}`: a row out of bounds is bad. `max_rejected` bad rows
    are put aside before the job stops. `memory_gb` bounds the engine's memory.
    """

    folder: str = ""
    log: tuple[Files, ...] = Field(min_length=1)
    tables: dict[str, Table] = Field(default_factory=dict)
    derive: dict[str, str] = Field(default_factory=dict)
    where: tuple[str, ...] = ()
    labels: dict[str, str] = Field(min_length=1)
    within: dict[str, tuple[Bound, Bound]] = Field(default_factory=dict)
    domain: Domain
    time: Time | None = None
    dedupe: Dedupe | None = None
    core: Core | None = None
    features: tuple[FeatureRecipe, ...] = Field(min_length=2)
    user: str = "user"
    item: str = "item"
    min_count: int = Field(default=0, ge=0)
    split: Split = Split()
    periods: Periods | None = None
    negatives: Negatives | None = None
    max_rejected: int = Field(default=0, ge=0)
    seed: int = 0
    memory_gb: float = Field(default=4.0, gt=0)

    @field_validator("features")
    @classmethod
    def _features(cls, features: tuple[FeatureRecipe, ...]) -> tuple[FeatureRecipe, ...]:
        names = [feature.name for feature in features]
        for name in names:
            if name in RESERVED or names.count(name) > 1:
                raise ValueError(f"feature name {name!r} is reserved or stands twice")
        spaces: dict[str, dict[str, object]] = {DOMAIN: {}}
        for feature in features:
            if not feature.looked_up and feature.kind != "text":
                continue
            known = spaces.setdefault(feature.space, feature.rule)
            for key in (key for key, value in feature.rule.items() if known.get(key) != value):
                raise ValueError(f"vocabulary {feature.space!r}: its features differ in {key}")
        return features

    @property
    def histories(self) -> dict[int, FeatureRecipe]:
        """The features that are made of the user's earlier rows, by place."""
        return {place: feature for place, feature in enumerate(self.features) if feature.last}

    @property
    def table(self) -> bool:
        """Whether rows that are kept leave others out, so that they are a table of their own and no view."""
        return bool(self.dedupe or self.core)

    @property
    def types(self) -> dict[str, str]:
        """Every raw or derived column that expressions may use; derived ones have the type `any`."""
        types: dict[str, str] = dict(self.log[0].types)
        for table in self.tables.values():
            types |= {column: kind for column, kind in table.types.items() if column not in table.keys.values()}
        return types | dict.fromkeys(self.derive, "any")

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        _check_columns(self)
        _check_roles(self)
        _check_bounds(self)
        if not self.time and (self.split.last or self.split.time or self.periods):
            raise ValueError("a split or periods by time need `time`")
        if not self.time and self.histories:
            name = next(iter(self.histories.values())).name
            raise ValueError(f"feature {name}: a history needs `time`, which says what came before")
        if not self.time and self.dedupe and (self.dedupe.keep != "max" or "time" in self.dedupe.by):
            raise ValueError("dedupe by time needs `time`; `keep: max` with a `value` does not")
        if self.dedupe and "split" in self.dedupe.by and not self.split.column:
            raise ValueError("dedupe by split needs a shipped split, `split: {column: …}`")
        return self


def _check_columns(recipe: Recipe) -> None:
    for files in recipe.log[1:]:
        if files.types != recipe.log[0].types:
            raise ValueError("all entries of log must have the same columns and types")
    seen = set(recipe.log[0].types)
    for name, table in recipe.tables.items():
        wrong = [column for column in table.keys if column not in seen]
        wrong += [column for column in table.keys.values() if column not in table.types]
        if wrong:
            raise ValueError(f"table {name}: no column {wrong[0]!r} to join on")
        new = {column for column in table.types if column not in table.keys.values()}
        if new & seen:
            raise ValueError(f"table {name}: column {sorted(new & seen)[0]!r} is there already")
        seen |= new
    for derived in recipe.derive:
        if derived in seen or derived.startswith("_"):
            raise ValueError(f"derive: {derived!r} is there already or begins with '_'")
        seen.add(derived)
    used = [feature.source for feature in recipe.features if not feature.last] + list(recipe.domain.flags)
    used += [recipe.domain.column] if recipe.domain.column else []
    used += [part.column for part in (recipe.time, recipe.split.column) if part]
    for column in used:
        if column not in seen:
            raise ValueError(f"no column {column!r}; there are {', '.join(sorted(seen))}")


def _check_bounds(recipe: Recipe) -> None:
    for label, (low, high) in recipe.within.items():
        if label not in recipe.labels:
            raise ValueError(f"within: no label {label!r}; there are {', '.join(recipe.labels)}")
        if not low <= high:
            raise ValueError(f"within: {label}: no number is within [{low:g}, {high:g}]; give the lower bound first")


def _check_roles(recipe: Recipe) -> None:
    features = {feature.name: feature for feature in recipe.features}
    for role in (recipe.user, recipe.item):
        if role not in features or features[role].kind != "id" or features[role].buckets:
            raise ValueError(f"no feature {role!r} of kind id; `user` and `item` name those in these roles")
    for label in recipe.labels:
        if label in features or label in RESERVED:
            raise ValueError(f"label name {label!r} is reserved or a feature's")
    space = features[recipe.item].space
    for feature in recipe.features:
        if feature.last:
            if feature.vocabulary not in ("", space):
                raise ValueError(f"feature {feature.name}: a history's vocabulary is the item's, {space!r}")
            continue
        listed = recipe.types[feature.source] in ("list", "any") or feature.separator
        if feature.kind == "ids" and not listed:
            raise ValueError(f"feature {feature.name}: give the `separator` at which the text is cut into ids")
