"""What a method declares: tables and stages. Data only; nothing here runs anything.

Shape letters: B rows, D width, T list entries.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.errors import UserError

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
    """

    name: str
    rows: int
    dim: int
    features: tuple[str, ...]
    pool: Literal["sum", "mean", "none"] = "sum"
    like: str = ""
    init: Init = Init()


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Which rows a stage reads and in what order. `None` domains: the job's; `None` period: all.

    `mix="joint"` shuffles all domains together; `"alternate"` gives batches of one domain each, in turn.
    `negatives` items a row, drawn from the row's domain, come as the id features `negative_0`, `negative_1`, …
    """

    split: str = "train"
    domains: tuple[int, ...] | None = None
    period: int | None = None
    mix: Literal["joint", "alternate"] = "joint"
    negatives: int = 0


@dataclass(frozen=True)
class Sum:
    """Update rule: the gradient of the weighted sum of the losses. A loss without a weight counts once."""

    weights: Mapping[str, float] = field(default_factory=dict[str, float])


UpdateRule = Sum  # further rules join this union; train/update.py says what each one does


@dataclass(frozen=True)
class Until:
    """When a stage ends: after `epochs`, or after `patience` evaluations without a gain. `None`: as the job says."""

    epochs: int | None = None
    patience: int | None = None


@dataclass(frozen=True)
class DenseOptimizer:
    """A named optimizer of dense parameters: `adam`, `adamw`, `sgd` or `adagrad`."""

    name: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0


class RowMapper(Protocol):
    """What a table operation may do."""

    def map_rows(self, into: str, fn: Callable[..., Tensor], *sources: str) -> None:
        """`into[r] = fn(source[r], …)` for every row, in chunks of rows, without communication."""
        ...


TableOp = Callable[[RowMapper], None]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stretch of optimisation: the same data, loss, trained set and update rule.

    `train` holds patterns over table names and dense parameter names. `optimizers` maps patterns over dense names to
    optimizers, first match wins; names without a match take the job's. `before` and `after` are table operations.
    `test` is the slice to report on when the stage ends. Stages of one `lane` run in order in one worker group, after
    the lanes it `needs`.
    """

    name: str
    loss: Callable[[Rows, Batch], Losses]
    data: Slice = Slice()
    train: tuple[str, ...] = ("*",)
    update: UpdateRule = Sum()
    optimizers: Mapping[str, DenseOptimizer] = field(default_factory=dict[str, DenseOptimizer])
    until: Until = Until()
    before: tuple[TableOp, ...] = ()
    after: tuple[TableOp, ...] = ()
    test: Slice | None = None
    lane: str = "main"
    needs: tuple[str, ...] = ()


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether any of the shell-style patterns fits the whole name."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def trained_by(stage: Stage, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the table and dense names that the stage trains."""
    return tuple(name for name in names if matches(name, stage.train))


def lanes(
    stages: tuple[Stage, ...], tables: tuple[TableSpec, ...], dense: tuple[str, ...]
) -> dict[str, tuple[Stage, ...]]:
    """The plan: lane → its stages, every lane after those it needs. `dense` are the method's parameter names.

    Raises `UserError` if a stage name repeats, a pattern fits nothing, a lane needs an unknown lane or itself, a table
    that nothing looks up is trained, or two lanes that may run at once train the same name.
    """
    names = tuple(spec.name for spec in tables) + dense
    unread = {spec.name for spec in tables if not spec.features}
    by_lane: dict[str, list[Stage]] = {}
    for stage in stages:
        _check_stage(stage, names, unread)
        by_lane.setdefault(stage.lane, []).append(stage)
    if len({stage.name for stage in stages}) != len(stages):
        raise UserError("two stages share a name: stage names must be unique")
    upstream = _upstream(by_lane)
    trains = {lane: {n for s in members for n in trained_by(s, names)} for lane, members in by_lane.items()}
    order = sorted(by_lane, key=lambda lane: len(upstream[lane]))
    for i, one in enumerate(order):
        for two in order[i + 1 :]:
            both = trains[one] & trains[two]
            if both and one not in upstream[two] and two not in upstream[one]:
                raise UserError(f"lanes {one!r} and {two!r} may run at once and both train {min(both)!r}")
    return {lane: tuple(by_lane[lane]) for lane in order}


def _check_stage(stage: Stage, names: tuple[str, ...], unread: set[str]) -> None:
    patterns = [("train", p) for p in stage.train] + [("optimizers", p) for p in stage.optimizers]
    for where, pattern in patterns:
        if not any(matches(name, (pattern,)) for name in names):
            raise UserError(f"stage {stage.name!r}: {where} pattern {pattern!r} fits no table and no dense parameter")
    blind = unread.intersection(trained_by(stage, names))
    if blind:
        raise UserError(f"stage {stage.name!r} trains table {min(blind)!r}, which no feature looks up")


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
