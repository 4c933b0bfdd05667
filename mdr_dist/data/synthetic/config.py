"""What a synthetic data set looks like, and how large it is: one class for labelled rows, one for implicit feedback."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

SPLITS = ("train", "val", "test")


class SyntheticConfig(BaseModel):
    """Size, shape and planted structure of a data set of labelled rows; `planted.py` gives the formula.

    Size
      users, items    entities; `items` counts one domain's. `shared_items`: every domain offers the same items;
                      otherwise each has its own, in an id space of scope `domain`
      domains, rows   `rows` counts training rows over all domains; domain k's share is ∝ (k+1)^-skew
      val, test       rows of that split for each training row
      features        id columns beside the domain: user, item, user_group, item_category, then user_1, item_1,
                      context_1, user_2, …; user_j and item_j are quantiles of the j-th shared factor, noise once the
                      factors are used up, and context_j is always noise. `levels` values each
    Who meets what
      overlap         share of users active in all domains; the others stay in one
      user_zipf, item_zipf   how often the r-th most frequent is drawn: ∝ r^-zipf
    Taste
      groups          user groups, and item categories; `grouped` is the share of taste a group explains
      shared_dim, specific_dim   factors that all domains use, and factors of each domain alone
      specific        share of the variance of taste that is domain-specific
      conflict        share of a group's shared tastes that divide the domains: one half likes what the other dislikes
      appeal          share of the signal's variance that is the item's own, alike for all users
      signal          standard deviation of the log-odds
      rate            share of positive labels; `rate_spread`: standard deviation of the domains' log-odds around it
    `name` is the data set's; `seed` fixes everything drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "synthetic"
    users: int = Field(default=1000, ge=1, le=2**31 - 2)
    items: int = Field(default=1000, ge=1, le=2**31 - 2)
    shared_items: bool = True
    domains: int = Field(default=5, ge=1, le=1000)
    rows: int = Field(default=400_000, ge=1)
    skew: float = Field(default=0.5, ge=0, le=4)
    val: float = Field(default=0.1, gt=0, le=10)
    test: float = Field(default=0.1, gt=0, le=10)
    features: int = Field(default=4, ge=2, le=1000)
    levels: int = Field(default=16, ge=2, le=65_535)
    overlap: float = Field(default=1.0, ge=0, le=1)
    user_zipf: float = Field(default=0.5, ge=0, le=4)
    item_zipf: float = Field(default=0.5, ge=0, le=4)
    groups: int = Field(default=32, ge=1, le=65_535)
    grouped: float = Field(default=0.5, ge=0, le=1)
    shared_dim: int = Field(default=4, ge=1, le=256)
    specific_dim: int = Field(default=2, ge=1, le=256)
    specific: float = Field(default=0.3, ge=0, le=1)
    conflict: float = Field(default=0.5, ge=0, le=1)
    appeal: float = Field(default=0.1, ge=0, le=1)
    signal: float = Field(default=2.0, gt=0, le=20)
    rate: float = Field(default=0.3, gt=0, lt=1)
    rate_spread: float = Field(default=0.3, ge=0, le=5)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> SyntheticConfig:
        if self.users < self.domains:
            raise ValueError(f"users: {self.users} cannot fill {self.domains} domains; use at least one user a domain")
        if self.rows < self.domains:
            raise ValueError(f"rows: {self.rows} cannot fill {self.domains} domains; use at least one row a domain")
        if not self.shared_items and self.domains * (self.items + 1) >= 2**31:
            raise ValueError(f"items: {self.items} in each of {self.domains} domains need more ids than int32 has")
        return self

    @classmethod
    def tiny(cls, *, seed: int = 0) -> SyntheticConfig:
        """A few thousand rows for tests: three domains, few users met often."""
        return cls(name="tiny", users=60, items=40, domains=3, rows=4000, groups=8, val=0.2, test=0.2, seed=seed)

    @classmethod
    def conflicting(cls, *, seed: int = 0) -> SyntheticConfig:
        """The benchmark of negative transfer: every shared taste of every group divides the domains."""
        return cls(
            name="conflicting",
            users=400,
            items=400,
            rows=500_000,
            skew=0.2,
            groups=100,
            grouped=0.6,
            shared_dim=2,
            specific_dim=1,
            conflict=1.0,
            signal=3.0,
            seed=seed,
        )

    @classmethod
    def large(cls, *, seed: int = 0) -> SyntheticConfig:
        """A million users in five domains with twenty features, for speed and memory."""
        return cls(
            name="large",
            users=1_000_000,
            items=100_000,
            rows=20_000_000,
            features=20,
            overlap=0.3,
            user_zipf=0.8,
            item_zipf=1.0,
            groups=1000,
            seed=seed,
        )


Count = Annotated[int, Field(ge=1, le=10**12)]


class ImplicitConfig(BaseModel):
    """Size and planted structure of a data set of items that users took; `choice.py` gives the formula.

    Size
      users           entities
      domains         their names; `items` and `interactions` are one number a domain. Each has its own items, in an id
                      space of scope `domain`
      interactions    training rows, times `scale`; `val`, `test`: rows of that split for each training row
    Who takes how much
      overlap         share of users active in all domains; the others stay in one
      user_zipf       the r-th most active user's rows are ∝ r^-user_zipf, everywhere; one at least, if there are enough
    What they take
      item_zipf       how often the r-th most popular item is met: ∝ r^-item_zipf
      choices         items met for each one taken, the one liked most; 1: popularity alone
      groups          user groups, and item categories; `grouped` is the share of taste a group explains
      shared_dim, specific_dim   factors that all domains use, and factors of each domain alone
      specific        share of the variance of taste that is domain-specific
    `name` is the data set's; `seed` fixes everything drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "implicit"
    domains: tuple[str, ...] = Field(default=("d0", "d1", "d2"), min_length=1, max_length=1000)
    users: int = Field(default=1000, ge=1, le=2**31 - 2)
    items: tuple[Count, ...] = (300, 300, 300)
    interactions: tuple[Count, ...] = (20_000, 10_000, 5000)
    scale: float = Field(default=1.0, gt=0, le=1000)
    val: float = Field(default=0.1, gt=0, le=10)
    test: float = Field(default=0.1, gt=0, le=10)
    overlap: float = Field(default=1.0, ge=0, le=1)
    user_zipf: float = Field(default=0.3, ge=0, le=2)
    item_zipf: float = Field(default=0.8, ge=0, le=2)
    choices: int = Field(default=8, ge=1, le=1000)
    groups: int = Field(default=32, ge=1, le=65_535)
    grouped: float = Field(default=0.5, ge=0, le=1)
    shared_dim: int = Field(default=6, ge=1, le=256)
    specific_dim: int = Field(default=2, ge=1, le=256)
    specific: float = Field(default=0.2, ge=0, le=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> ImplicitConfig:
        for key in ("items", "interactions"):
            if (given := len(getattr(self, key))) != len(self.domains):
                raise ValueError(f"{key}: {given} numbers for {len(self.domains)} domains; give one a domain")
        if len(set(self.domains)) != len(self.domains) or not all(self.domains):
            raise ValueError("domains: give each a name of its own")
        if self.users < len(self.domains):
            raise ValueError(f"users: {self.users} cannot fill {len(self.domains)} domains; use one user a domain")
        if sum(self.items) + len(self.items) >= 2**31:
            raise ValueError(f"items: {sum(self.items)} over all domains need more ids than int32 has")
        for domain, (name, items) in enumerate(zip(self.domains, self.items, strict=True)):
            if (rows := sum(self.rows(domain).values())) > self.users * items:
                raise ValueError(
                    f"interactions: domain {name} has {rows} over all splits, more than {self.users} users can take of "
                    f"{items} items"
                )
        return self

    def rows(self, domain: int) -> dict[str, int]:
        """A domain's rows by split, one at least."""
        train = max(round(self.interactions[domain] * self.scale), 1)
        return {"train": train, "val": max(round(train * self.val), 1), "test": max(round(train * self.test), 1)}

    @classmethod
    def shared_specific(cls) -> ImplicitConfig:
        """The benchmark of transfer: most of taste is shared; each domain has half the rows of the one before."""
        return cls(
            name="shared-specific",
            domains=("dense", "middle", "sparse", "sparsest"),
            users=2000,
            items=(800, 800, 800, 800),
            interactions=(80_000, 40_000, 20_000, 10_000),
        )

    @classmethod
    def paper(cls) -> ImplicitConfig:
        """As many users, items and interactions as CAT-ART's data have (Table 1 of the paper, WSDM 2023)."""
        return cls(
            name="paper",
            domains=("app-install", "app-use", "articles", "video-short", "video-long"),
            users=1_166_552,
            items=(100_000, 100_000, 50_000, 50_000, 50_000),
            interactions=(101_981_793, 18_156_535, 102_832_656, 74_911_020, 11_412_988),
            groups=1000,
        )


class DriftConfig(BaseModel):
    """Size and planted structure of interactions that drift from period to period; `drift.py` gives the formula.

    Size
      users           entities; `items` counts one domain's. Domains have items of their own, in one id space
      domains         that offer these; a user is the same in all
      rows            over all domains and periods, each period alike; all are training rows
      periods         of a week each
    Who comes when
      late            share of the users, and of the items, that first come in a later period, each period alike
      active          chance of a user who has come to be active in a period
      user_spread     standard deviation of the logarithm of how much an active user takes
    What they take
      item_zipf       the r-th most popular item is met ∝ r^-item_zipf
      trend           standard deviation of what drifts in the logarithm of popularity
      drift           share of the variance of taste that drifts
      memory          of what drifts, the correlation of one period with the next
      signal, bar     how sharply users tell items apart, and at what taste they take half of those they meet
      whim            chance of an item that is met to be taken whatever the taste
      groups          user groups, and item categories; `grouped` is the share of taste a group explains
      stable_dim, drift_dim   factors that stay, and factors that drift
    `name` is the data set's; `seed` fixes everything drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "drift"
    users: int = Field(default=3000, ge=1, le=2**31 - 2)
    items: int = Field(default=2000, ge=20, le=2**31 - 2)
    domains: int = Field(default=1, ge=1, le=1000)
    rows: int = Field(default=120_000, ge=1)
    periods: int = Field(default=10, ge=2, le=1000)
    late: float = Field(default=0.3, ge=0, le=0.9)
    active: float = Field(default=0.5, gt=0, le=1)
    user_spread: float = Field(default=0.7, ge=0, le=2)
    item_zipf: float = Field(default=0.6, ge=0, le=2)
    trend: float = Field(default=1.0, ge=0, le=4)
    drift: float = Field(default=0.3, ge=0, le=1)
    memory: float = Field(default=0.9, ge=0, lt=1)
    signal: float = Field(default=6.0, gt=0, le=20)
    bar: float = Field(default=1.5, ge=0, le=3)
    whim: float = Field(default=0.01, gt=0, le=1)
    groups: int = Field(default=16, ge=1, le=65_535)
    grouped: float = Field(default=0.6, ge=0, le=1)
    stable_dim: int = Field(default=6, ge=1, le=256)
    drift_dim: int = Field(default=4, ge=1, le=256)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> DriftConfig:
        if self.domains * self.items >= 2**31 - 1:
            raise ValueError(f"items: {self.items} in each of {self.domains} domains need more ids than int32 has")
        if self.rows < self.domains * self.periods:
            raise ValueError(f"rows: {self.rows} cannot fill {self.periods} periods of {self.domains} domains")
        return self
