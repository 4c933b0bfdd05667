"""The parts of a recipe; `recipe.py` puts them together. Names that stand for a column are explained there."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from mdr_dist.config import Section

SPLITS = ("train", "val", "test")
Column = Literal["text", "int", "float", "list"]


def _pairs(value: object) -> object:
    """`keys: [user]` means `keys: {user: user}`."""
    return {key: key for key in value} if isinstance(value, list | tuple) else value


class Files(Section):
    """Files of one layout, `files` being paths or globs relative to the raw folder, or URLs.

    `columns` names the columns to read and their types; a file without a header must have exactly these, in this
    order; a file with one may have more, unless `strict_columns`. `int` and `float` that do not parse are rejected
    rows; a value among `nulls` is missing, and so is a float that is NaN. `list` is for list values of JSON lines and
    Parquet. `constants` adds columns that are the same for every row; `pattern`, a regular expression that every
    file's base name must match (with a `/` in it: so many folders and the base name), adds its named groups. `variable`
    is the matrix in a `.mat` file. `.gz`, `.zst` and `.zip` of one file are unpacked.
    """

    files: tuple[str, ...] = Field(min_length=1)
    format: Literal["csv", "tsv", "jsonl", "parquet", "mat"]
    columns: dict[str, Column] = Field(min_length=1)
    delimiter: str = ""
    header: bool = True
    quote: str = '"'
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    nulls: tuple[str, ...] = ("",)
    strict_columns: bool = False
    constants: dict[str, str] = Field(default_factory=dict)
    pattern: str = ""
    variable: str = ""

    @property
    def separator(self) -> str:
        """The character between two columns."""
        return self.delimiter or ("\t" if self.format == "tsv" else ",")

    @property
    def types(self) -> dict[str, Column]:
        """Every column that rows of these files have."""
        groups = re.compile(self.pattern).groupindex
        return {**self.columns, **dict.fromkeys(self.constants, "text"), **dict.fromkeys(groups, "text")}

    @model_validator(mode="after")
    def _consistent(self) -> Files:
        try:
            groups = list(re.compile(self.pattern).groupindex)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is not a regular expression: {error}") from error
        if len(self.types) < len(self.columns) + len(self.constants) + len(groups):
            raise ValueError("columns, constants and the pattern's groups must have different names")
        if any(column.startswith("_") for column in self.types):
            raise ValueError("a column's name must not begin with '_'")
        if self.format == "mat" and not self.variable:
            raise ValueError("format mat needs `variable`, the name of the matrix")
        if self.format in ("csv", "tsv") and "list" in self.columns.values():
            raise ValueError("a text file has no list columns; read it as text and give the feature a `separator`")
        return self


class Table(Files):
    """A side table, joined to the log where its `keys` are equal, `{log column: table column}` or a list of common
    names.

    A key must not occur twice. A log row without a match is rejected if `required`, else its columns are missing.
    """

    keys: Annotated[dict[str, str], BeforeValidator(_pairs)] = Field(min_length=1)
    required: bool = False


class Time(Section):
    """Where the time is: `format` is unix (seconds), unix_ms or a strptime pattern such as "%Y-%m-%d", read as UTC."""

    column: str
    format: str = "unix"


class Domain(Section):
    """What the domain is: the value of `column`, or each of the columns in `flags` that is true, one row for each.

    `names` renames values; one that is not among them keeps its own. `keep` lists the domains (by new name) to keep, in
    this order; `largest` keeps that many, counted after `where` and before `dedupe`, largest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    column: str = ""
    flags: tuple[str, ...] = ()
    names: dict[str, str] = Field(default_factory=dict)
    keep: tuple[str, ...] = ()
    largest: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Domain:
        if bool(self.column) == bool(self.flags):
            raise ValueError("give either `column` or `flags`")
        if self.keep and self.largest:
            raise ValueError("give either `keep` or `largest`")
        if len(set(self.keep)) < len(self.keep):
            raise ValueError("a domain stands twice in `keep`")
        return self


class Dedupe(Section):
    """Keep one row of those equal `by` these: the `first` or `last` by time, or the `max` of the expression `value`.

    Ties fall to the greater labels, then to the greater feature values, whatever the order of the files.
    """

    by: tuple[Literal["user", "item", "domain", "time", "split"], ...] = Field(min_length=1)
    keep: Literal["last", "first", "max"]
    value: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Dedupe:
        if (self.keep == "max") != bool(self.value):
            raise ValueError("`value` goes with `keep: max`, and only with it")
        return self


class Core(Section):
    """Keep the part of each domain in which every user has `user` rows or more, and every item `item`.

    Rows are counted after `dedupe`, whatever their label. It is the usual k-core of recommendation data sets; what it
    leaves out, a method is not asked about, so figures with and without it cannot be compared.
    """

    user: int = Field(default=1, ge=1)
    item: int = Field(default=1, ge=1)


class Fractions(Section):
    """Shares of the rows (or of the users); the rest, `1 - val - test`, is `train`."""

    val: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> Fractions:
        if self.val + self.test >= 1:
            raise ValueError("val and test leave nothing to train on")
        return self


class ByTime(Section):
    """`val` and `test` are the latest shares of the rows (equal times stay together), or begin at dates (UTC)."""

    val: float = Field(default=0.0, ge=0, lt=1)
    test: float = Field(default=0.0, ge=0, lt=1)
    val_from: str = ""
    test_from: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> ByTime:
        shares, dates = bool(self.val or self.test), bool(self.val_from or self.test_from)
        if shares == dates:
            raise ValueError("give shares (val, test) or dates (val_from, test_from)")
        if self.val + self.test >= 1:
            raise ValueError("val and test leave nothing to train on")
        return self


class LastOut(Section):
    """The last row by time of each `per` is test, the one before it val; below 3 rows no val, below 2 no test."""

    per: Literal["user", "user_domain"] = "user_domain"


class ByColumn(Section):
    """A shipped split: the column holds `train`, `val` or `test`, or what `names` maps to these.

    `val` is the share of the training rows that becomes val, by their hash, where none is shipped.
    """

    column: str
    names: dict[str, Literal["train", "val", "test"]] = Field(default_factory=lambda: {s: s for s in SPLITS})
    val: float = Field(default=0.0, ge=0, lt=1)


class ColdStart(Section):
    """Hold out what some users did in `domain` whom training knows from other domains, as CATN does.

    Of the users with rows in `domain` and in another one the share `users` is cold: the rows in `domain` of the share
    `val` of them are val, those of the others test, and their rows elsewhere train. Of the rest of them the share
    `common` stays; all rows of the others are dropped, which the report calls `uncommon`. All other rows train. Who is
    what goes by hashes of the seed and the user.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    domain: str
    users: float = Field(default=0.5, gt=0, lt=1)
    val: float = Field(default=0.4, ge=0, lt=1)
    common: float = Field(default=1.0, gt=0, le=1)


class Split(Section):
    """Exactly one rule, or none (every row trains).

    `random` goes by a hash of (seed, user, item, time), so that it depends on no order, equal rows stay together, and
    a (user, item, time) falls into the same split in every domain. `user` puts all rows of a user into one split, for
    users nobody knows; those of `cold_start` are known from other domains. `drop_leaks` then drops training rows whose
    (user, item) is in val or test, in whatever domain. `relevant` is an SQL expression like those of `where`: rows of
    val and test that it is not true for are dropped, so that they neither train nor count as what there was to find.
    """

    random: Fractions | None = None
    user: Fractions | None = None
    last: LastOut | None = None
    time: ByTime | None = None
    column: ByColumn | None = None
    cold_start: ColdStart | None = None
    drop_leaks: bool = False
    relevant: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Split:
        rules = (self.random, self.user, self.last, self.time, self.column, self.cold_start)
        if sum(rule is not None for rule in rules) > 1:
            raise ValueError("give one rule only: random, user, last, time, column or cold_start")
        return self


class Periods(Section):
    """Cut time into `count` periods of equal numbers of rows (equal times stay together), or at the dates `starts`.

    `starts` are the first moments (UTC) of periods 1, 2, …; everything before is period 0.
    """

    count: int = Field(default=0, ge=0)
    starts: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Periods:
        if (self.count > 1) == bool(self.starts):
            raise ValueError("give a `count` of 2 or more, or dates in `starts`")
        return self


class Negatives(Section):
    """Rows to sample for each positive row (first label over 0) of a split, for logs that hold positives only.

    The item is drawn from the items of the row's domain, each alike (`uniform`) or by its positive rows (`popularity`),
    and drawn again while it is a positive of that user in that domain, in whatever split. All labels are 0; features of
    the item follow it, everything else stays as in the positive row.
    """

    train: int = Field(default=0, ge=0)
    val: int = Field(default=0, ge=0)
    test: int = Field(default=0, ge=0)
    sampling: Literal["uniform", "popularity"] = "uniform"
