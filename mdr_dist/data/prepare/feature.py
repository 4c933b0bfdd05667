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

    `text` is a review: its words in order, the first `width` (500) of them that are in the vocabulary. A word is a run
    of two or more letters, digits or underscores, in lower case, as for scikit-learn's TfidfVectorizer, which chooses
    the vocabulary alike: of the words in no more than the share `max_df` of the training reviews the `words` that occur
    most often, ties by word; and none that occurs fewer than `min_count` times. `vectors` is a file of pretrained
    vectors in the raw folder, in the text layout of word2vec and GloVe, `.gz` or plain: a line holds a word and its
    numbers, and a first line of two whole numbers is a header.
    """

    name: str
    column: str = ""
    kind: Literal["id", "ids", "text", "dense"] = "id"
    scope: Literal["shared", "domain"] = "shared"
    vocabulary: str = ""
    min_count: int | None = Field(default=None, ge=0)
    separator: str = ""
    width: int | None = Field(default=None, ge=1)
    default: float = 0.0
    log1p: bool = False
    standardise: bool = False
    buckets: int = Field(default=0, ge=0, le=4096)
    of: Literal["row", "item"] = "row"
    last: int = Field(default=0, ge=0, le=10_000)
    words: int = Field(default=20_000, ge=1, le=2**24)
    max_df: float = Field(default=0.5, gt=0, le=1)
    vectors: str = ""

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
        return self.kind in ("id", "ids") and not self.last

    @property
    def most(self) -> int:
        """How many entries of a list are kept."""
        return self.width or (500 if self.kind == "text" else 1)

    @property
    def rule(self) -> dict[str, object]:
        """What features of one vocabulary must agree on."""
        shared = ("scope", "min_count", "buckets", "words", "max_df", "vectors")
        return {"kind": self.kind == "text", **{key: getattr(self, key) for key in shared}}

    @model_validator(mode="after")
    def _consistent(self) -> FeatureRecipe:
        given = self.model_fields_set
        meant = {
            "id": {"scope", "vocabulary", "min_count", "buckets"},
            "ids": {"last", "vocabulary"} if self.last else {"scope", "vocabulary", "min_count", "separator", "width"},
            "text": {"vocabulary", "min_count", "width", "words", "max_df", "vectors"},
            "dense": {"default", "log1p", "standardise"},
        }
        of_all = {"name", "kind"} if self.last else {"name", "column", "kind"}
        of_all |= set() if self.last or self.kind == "text" else {"of"}
        stray = sorted(given - of_all - meant[self.kind])
        if stray:
            what = "a history" if self.last and self.kind == "ids" else f"kind {self.kind}"
            raise ValueError(f"feature {self.name}: {stray[0]!r} means nothing for {what}")
        return self
