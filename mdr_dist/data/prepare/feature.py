"""How a column of the data set is made of the log's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mdr_dist.config import Section


class FeatureRecipe(Section):
    """One input column of the data set, made of `column` (default: its own name).

    `id` and `ids` are looked up in a vocabulary (default: the feature's name), `scope` and `min_count` as in the
    schema: a key with fewer than `min_count` exposures in the training split is its default row (Crocodile: 10), and
    so is one never seen there. `ids` come from a list column or a text cut at `separator`, the first `width` are
    kept. `dense` is a float, missing ones `default`; `log1p` takes sign(x) ln(1 + |x|), `standardise` then makes mean
    0 and deviation 1 on the training split. `buckets` turns a number into the `id` of its quantile range on the
    training split. `of: item` marks a feature of the item, which a sampled negative takes from its item.

    `last` makes a history instead of reading a column: an `ids` of the items in the user's last rows with a positive
    first label before this one, in whatever domain and split, at most so many, oldest first; `history.py` tells the
    order. Its vocabulary is the item's.
    """

    name: str
    column: str = ""
    kind: Literal["id", "ids", "dense"] = "id"
    scope: Literal["shared", "domain"] = "shared"
    vocabulary: str = ""
    min_count: int | None = Field(default=None, ge=0)
    separator: str = ""
    width: int = Field(default=1, ge=1)
    default: float = 0.0
    log1p: bool = False
    standardise: bool = False
    buckets: int = Field(default=0, ge=0, le=4096)
    of: Literal["row", "item"] = "row"
    last: int = Field(default=0, ge=0, le=10_000)

    @property
    def source(self) -> str:
        """The column it is made of."""
        return self.column or self.name

    @property
    def space(self) -> str:
        """The name of its vocabulary."""
        return self.vocabulary or self.name

    @property
    def looked_up(self) -> bool:
        """Whether it has keys of its own, which are counted and looked up."""
        return self.kind != "dense" and not self.last

    @model_validator(mode="after")
    def _consistent(self) -> FeatureRecipe:
        given = self.model_fields_set
        meant = {
            "id": {"scope", "vocabulary", "min_count", "buckets"},
            "ids": {"last", "vocabulary"} if self.last else {"scope", "vocabulary", "min_count", "separator", "width"},
            "dense": {"default", "log1p", "standardise"},
        }
        of_all = {"name", "kind"} if self.last else {"name", "column", "kind", "of"}
        stray = sorted(given - of_all - meant[self.kind])
        if stray:
            what = "a history" if self.last and self.kind == "ids" else f"kind {self.kind}"
            raise ValueError(f"feature {self.name}: {stray[0]!r} means nothing for {what}")
        return self
