"""What a method declares: tables and stages. Data only; nothing here runs anything.

Shape letters: B rows, D width, T list entries.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.errors import UserError
from mdr_dist.rule import Sum, UpdateRule

# "table.feature" → looked-up rows: [B, D]; for lists of a table with pool="none" [T, D], lengths in batch.lists
Rows = Mapping[str, Tensor]
Losses = dict[str, Tensor]  # name → scalar


@dataclass(frozen=True)
class Init:
    """How rows start: `normal` (mean 0, `scale` its deviation), `uniform` (within ±`scale`) or `constant` (`scale`)."""

    kind: Literal["normal", "uniform", "constant"] = "normal"
    scale: float = 0.01


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One embedding table, [rows, dim] float32.

    Every feature looks up in it; `pool` says what becomes of a list: its `sum`, its `mean`, or `none` (stays a list).
    `like` names a table of the same shape whose placement this one shares, so that rows can be mapped shard by shard.
    With `start` the table holds one block of its features' ids, `[start, start + rows)`: id `start` is row 0, and ids
    outside the block, those of other domains, read row 0 too.
    """

    name: str
    rows: int
    dim: int
    features: tuple[str, ...]
    pool: Literal["sum", "mean", "none"] = "sum"
    like: str = ""
    start: int | None = None
    init: Init = Init()


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Which rows a stage reads and in what order. `None` domains: the job's; `None` period: all.

    What users took in training that comes with the rows (`batch.Extras`) is of the domains of `context`; `None`: of the
    slice's, or the job's where users and items are ranked.
    With `upto` it reads the periods before its own too, with `reservoir` so many rows of them, drawn uniformly.
    `mix="joint"` shuffles all domains together; `"alternate"` gives batches of one domain each, in turn.
    `negatives` items a row, drawn from the row's domain, come as the id features `negative_0`, `negative_1`, …: items
    seen up to the slice's period that the user had not taken by its end or, with `pool="period"`, items of that period
    that the user did not take in it.
    A row is a row of the data set or, with `unit="user"`, a user of the slice, who comes once whatever the domains;
    the row's domain is then 0 and its features, but the user's, are their default rows. `users="common"` leaves only
    those that are active in training in several of the job's domains. Fewer rows than a batch holds are one batch, its
    rest padding.
    """

    split: str = "train"
    domains: tuple[int, ...] | None = None
    context: tuple[int, ...] | None = None
    period: int | None = None
    upto: bool = False
    reservoir: int = 0
    mix: Literal["joint", "alternate"] = "joint"
    negatives: int = 0
    pool: Literal["past", "period"] = "past"
    unit: Literal["row", "user"] = "row"
    users: Literal["all", "common"] = "all"

    def __post_init__(self) -> None:
        if self.reservoir and self.users == "common":
            raise ValueError("Slice: a reservoir keeps rows of all users, users='common' asks for some")


@dataclass(frozen=True)
class Until:
    """When a stage ends: after `epochs`, or after `patience` evaluations without a gain of `monitor`.

    `monitor` is a metric, or `loss`: the update rule's weighted sum of the stage's own losses. `None`: as the job says.
    """

    epochs: int | None = None
    patience: int | None = None
    monitor: str | None = None


@dataclass(frozen=True)
class DenseOptimizer:
    """A named optimizer of dense parameters: `adam`, `adamw`, `sgd` or `adagrad`."""

    name: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0


class TableOperations(Protocol):
    """What a table operation may do."""

    def reset_optimizer(self) -> None:
        """Forget the optimizer state of all tables."""
        ...

    def map_rows(self, into: str, fn: Callable[..., Tensor], *sources: str) -> None:
        """`into[r] = fn(source[r], …)` for every row, in chunks of rows, without communication."""
        ...


TableOp = Callable[[TableOperations], None]


def fresh_optimizer(tables: TableOperations) -> None:
    """Start a stage with the table optimizers as at first."""
    tables.reset_optimizer()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stretch of optimisation: the same data, loss, trained set and update rule.

    `train` holds patterns over table names and dense parameter names, `read` over the tables that are looked up.
    `optimizers` maps patterns over dense names to optimizers, first match wins; names without a match take the job's.
    `before` and `after` are table operations. It is validated on the `val` split of its own data. Before anything of it
    runs the state is measured on the slice `pretest`, at its end on `test`, where it names them: how a schedule went,
    beside the result of the whole run. Stages of one `lane` run in order in one worker group, after the lanes it
    `needs`.
    """

    name: str
    loss: Callable[[Rows, Batch], Losses]
    data: Slice = Slice()
    train: tuple[str, ...] = ("*",)
    read: tuple[str, ...] = ("*",)
    update: UpdateRule = field(default_factory=Sum)
    optimizers: Mapping[str, DenseOptimizer] = field(default_factory=dict[str, DenseOptimizer])
    until: Until = Until()
    before: tuple[TableOp, ...] = ()
    after: tuple[TableOp, ...] = ()
    pretest: Slice | None = None
    test: Slice | None = None
    lane: str = "main"
    needs: tuple[str, ...] = ()


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether any of the shell-style patterns fits the whole name."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def trained_by(stage: Stage, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the table and dense names that the stage trains."""
    return tuple(name for name in names if matches(name, stage.train))


@dataclass(frozen=True)
class Lane:
    """Stages that run in order in one worker group, once the lanes `upstream` are done.

    `upstream` are all lanes that must be done before, not only those it names, in the order of the plan. `reads` are
    the tables that it holds, `writes` the tables and dense parameters that it trains, and `saves` the tables in its
    checkpoints: those it trains, and those that no lane upstream has saved.
    """

    name: str
    stages: tuple[Stage, ...]
    upstream: tuple[str, ...]
    reads: frozenset[str]
    writes: frozenset[str]
    saves: frozenset[str]

    @property
    def domains(self) -> tuple[int, ...] | None:
        """The domains that its stages' data cover, in order; `None`: all."""
        parts = [stage.data.domains for stage in self.stages if stage.data.unit == "row"]
        if None in parts or not parts:
            return None
        return tuple(sorted({domain for part in parts for domain in part or ()}))


def within(stages: tuple[Stage, ...], domains: tuple[int, ...]) -> tuple[Stage, ...]:
    """The stages for these domains alone: what names others reads these, or is left out if it names none of these."""
    kept: list[Stage] = []
    for stage in stages:
        own, test = (slice and _inside(slice, domains) for slice in (stage.data, stage.test))
        if own and own.domains != ():
            kept.append(replace(stage, data=own, test=test))
    there = {stage.lane for stage in kept}
    gone = {stage.lane for stage in stages} - there
    return tuple(replace(stage, needs=tuple(lane for lane in stage.needs if lane not in gone)) for stage in kept)


def _inside(slice: Slice, domains: tuple[int, ...]) -> Slice:
    """The part of a slice that lies in these domains."""
    parts = (slice.domains, slice.context)
    own, context = (part and tuple(domain for domain in part if domain in domains) for part in parts)
    return replace(slice, domains=own, context=context)


def lanes(stages: tuple[Stage, ...], tables: tuple[TableSpec, ...], dense: tuple[str, ...]) -> dict[str, Lane]:
    """The plan: lane by name, every lane after those it needs. `dense` are the method's parameter names.

    Raises `UserError` if a stage name repeats, a pattern fits nothing, a lane needs an unknown lane or itself, a table
    that nothing looks up is trained, or two lanes that may run at once train the same name.
    """
    names = tuple(spec.name for spec in tables)
    read = {spec.name for spec in tables if spec.features}
    by_lane: dict[str, list[Stage]] = {}
    for stage in stages:
        _check_stage(stage, names, dense, read=read)
        by_lane.setdefault(stage.lane, []).append(stage)
    if len({stage.name for stage in stages}) != len(stages):
        raise UserError("two stages share a name: stage names must be unique")
    upstream = _upstream(by_lane)
    order = sorted(by_lane, key=lambda lane: len(upstream[lane]))
    plan: dict[str, Lane] = {}
    for lane in order:
        members = tuple(by_lane[lane])
        above = tuple(name for name in order if name in upstream[lane])
        reads = frozenset(name for name in names if any(matches(name, stage.read) for stage in members))
        writes = frozenset(name for stage in members for name in trained_by(stage, names + dense))
        inherited = frozenset[str]().union(*(plan[name].saves for name in above))
        plan[lane] = Lane(lane, members, above, reads, writes, saves=reads - (inherited - writes))
    _check_apart(plan)
    return plan


def _check_apart(plan: Mapping[str, Lane]) -> None:
    for one, two in itertools.combinations(plan.values(), 2):
        both = one.writes & two.writes
        if both and one.name not in two.upstream:
            raise UserError(f"lanes {one.name!r} and {two.name!r} may run at once and both train {min(both)!r}")


def _check_stage(stage: Stage, tables: tuple[str, ...], dense: tuple[str, ...], *, read: set[str]) -> None:
    places = (
        ("train", stage.train, tables + dense),
        ("optimizers", stage.optimizers, dense),
        ("read", stage.read, tables),
    )
    for where, patterns, names in places:
        for pattern in patterns:
            if pattern != "*" and not any(matches(name, (pattern,)) for name in names):
                what = {"train": "table and no dense parameter", "read": "table"}.get(where, "dense parameter")
                raise UserError(f"stage {stage.name!r}: {where} pattern {pattern!r} fits no {what}")
    for name in trained_by(stage, tables):
        if name not in read:
            raise UserError(f"stage {stage.name!r} trains table {name!r}, which no feature looks up")
        if not matches(name, stage.read):
            raise UserError(f"stage {stage.name!r} trains table {name!r}, which it does not read")


def _upstream(by_lane: Mapping[str, list[Stage]]) -> dict[str, set[str]]:
    """Lane → every lane that must be done before it."""
    needs = {lane: {n for stage in members for n in stage.needs} for lane, members in by_lane.items()}
    for lane, direct in needs.items():
        if unknown := direct - set(by_lane):
            raise UserError(f"lane {lane!r} needs lane {min(unknown)!r}, which no stage belongs to")
    closed = {lane: set(direct) for lane, direct in needs.items()}
    for _ in by_lane:  # a path is at most as long as there are lanes
        closed = {lane: above.union(*(closed[n] for n in above)) for lane, above in closed.items()}
    if cyclic := [lane for lane, above in closed.items() if lane in above]:
        raise UserError(f"lanes need each other in a circle: {', '.join(sorted(cyclic))}")
    return closed
