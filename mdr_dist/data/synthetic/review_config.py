"""What a data set of planted reviews looks like, and how large it is."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mdr_dist.data.synthetic.config import Count


class Held(NamedTuple):
    """How many users who are in both domains have target rows of each kind only."""

    val: int
    test: int
    train: int


class ReviewConfig(BaseModel):
    """Size and planted structure of ratings with reviews in two domains; `opinion.py` gives the formula.

    Size
      users           entities
      domains         names of the source and the target; `items` and `interactions` are one number a domain. Each has
                      its own items, in an id space of scope `domain`
      interactions    ratings over all splits, each with a review
    Who rates how much
      overlap         share of users active in both domains; the others stay in one
      cold            share of these who start cold: all their target rows are held out
      val             share of those whose target rows are the val split; the others' are the test split
      user_zipf       the r-th most active user's rows are ∝ r^-user_zipf, everywhere; one at least, if there are enough
      item_zipf       how often the r-th most popular item is rated: ∝ r^-item_zipf
    What they rate
      aspects         that users care for and that items are good or bad in
      focus           how evenly users care: a Dirichlet law's parameter; near 0: each for one aspect alone
      mixing          share of what a user cares for in the source that goes to another aspect of the target
      conflict        share of what a user cares for in the target that the source does not tell
      signal, level, strictness   standard deviation of an item's quality in an aspect, of what else makes an item
                      liked, and of what makes a user rate high, in stars
      noise           standard deviation of a rating before it is rounded to 1, 2, 3, 4 or 5
      base            the usual rating
    What they write
      length          mean number of words of a review
      document        words of a document at most: the width of the feature `review`
      fillers         words that tell nothing; `filler` is their share of a review
      words           for praise of one aspect, and for blame: so many that both domains use, and so many of each alone
      specific        share of those words that are the domain's own
      clarity         how surely words tell good from bad: log-odds of praise for an aspect one deviation above usual
    `name` is the data set's; `seed` fixes everything drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "reviews"
    domains: tuple[str, str] = ("source", "target")
    users: int = Field(default=2000, ge=1, le=2**31 - 2)
    items: tuple[Count, Count] = (600, 600)
    interactions: tuple[Count, Count] = (16_000, 12_000)
    overlap: float = Field(default=0.6, gt=0, le=1)
    cold: float = Field(default=0.5, gt=0, lt=1)
    val: float = Field(default=0.4, gt=0, lt=1)
    user_zipf: float = Field(default=0.3, ge=0, le=2)
    item_zipf: float = Field(default=0.6, ge=0, le=2)
    aspects: int = Field(default=4, ge=1, le=100)
    focus: float = Field(default=0.3, gt=0, le=100)
    mixing: float = Field(default=0.8, ge=0, le=1)
    conflict: float = Field(default=0.2, ge=0, le=1)
    signal: float = Field(default=1.8, ge=0, le=20)
    level: float = Field(default=0.3, ge=0, le=20)
    strictness: float = Field(default=0.2, ge=0, le=20)
    noise: float = Field(default=0.5, ge=0.01, le=20)
    base: float = Field(default=3.2, ge=1, le=5)
    length: float = Field(default=20.0, ge=1, le=1000)
    document: int = Field(default=200, ge=1, le=100_000)
    fillers: int = Field(default=400, ge=1, le=10**6)
    filler: float = Field(default=0.4, ge=0, le=1)
    words: int = Field(default=20, ge=1, le=10**6)
    specific: float = Field(default=0.3, ge=0, le=1)
    clarity: float = Field(default=2.0, ge=0, le=100)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> ReviewConfig:
        if self.domains[0] == self.domains[1] or not all(self.domains):
            raise ValueError("domains: give each a name of its own")
        if sum(self.items) + len(self.items) >= 2**31:
            raise ValueError(f"items: {sum(self.items)} over both domains need more ids than int32 has")
        for kind, users in self.held._asdict().items():
            if users < 1:
                raise ValueError(
                    f"users: of {self.users}, none who is in both domains has target rows in the {kind} split; use "
                    "more of them, or other shares `overlap`, `cold` and `val`"
                )
        for name, items, rows in zip(self.domains, self.items, self.interactions, strict=True):
            if rows < self.users:
                raise ValueError(f"interactions: domain {name} has {rows} for {self.users} users; use one a user")
            if rows > self.users * items:
                raise ValueError(
                    f"interactions: domain {name} has {rows}, more than {self.users} users can have of {items} items"
                )
        return self

    @property
    def both(self) -> int:
        """How many users are in both domains."""
        return round(self.users * self.overlap)

    @property
    def held(self) -> Held:
        """These users by where their target rows are."""
        cold = round(self.both * self.cold)
        val = round(cold * self.val)
        return Held(val=val, test=cold - val, train=self.both - cold)
