"""Which process holds which part of which table: decided before anything starts, the same in every process.

Table-wise is the default, row-wise for tables that outgrow a device. Tables are dealt to processes largest first, each
to the one with least work; a table `like` another goes where that one is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from mdr_dist.config import Placement, TablesConfig
from mdr_dist.errors import UserError
from mdr_dist.stage import TableSpec, matches

OPTIMIZER_FLOATS = {"sgd": 0, "adagrad": 1, "rowwise_adagrad": 0, "adam": 2}  # a weight; row-wise: one a row besides


@dataclass(frozen=True)
class Placed:
    """One table's place. `rank` is the process of a table-wise table, -1 where all have a part; bytes are in all."""

    table: str
    rows: int
    dim: int
    placement: Placement
    kernel: str
    rank: int
    weight_bytes: int
    optimizer_bytes: int
    bytes_per_worker: int

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def plan(specs: tuple[TableSpec, ...], config: TablesConfig, *, world_size: int, device: str = "cpu") -> list[Placed]:
    """Every table's place; a `UserError` for one that cannot be trained exactly, or at all, where it was put."""
    chosen = {spec.name: _choose(spec, config, world_size) for spec in specs}
    for spec in specs:
        if spec.like:
            chosen[spec.name] = chosen[spec.like]
        _check(spec, chosen[spec.name], config, world_size=world_size, device=device)
    _check_patterns(config, chosen)
    ranks = _deal(specs, chosen, world_size)
    return [
        _placed(spec, chosen[spec.name], ranks.get(spec.name, -1), config, world_size=world_size, device=device)
        for spec in specs
    ]


def _choose(spec: TableSpec, config: TablesConfig, world_size: int) -> Placement:
    wanted = config.placement
    if isinstance(wanted, dict):
        wanted = next((to for pattern, to in wanted.items() if matches(spec.name, (pattern,))), "auto")
    if wanted != "auto":
        return wanted
    outgrows = config.device_gb and _bytes(spec, config) > config.device_gb * 2**30 / 2
    return "row_wise" if world_size > 1 and outgrows else "table_wise"


def _check(spec: TableSpec, placement: Placement, config: TablesConfig, *, world_size: int, device: str) -> None:
    table = f"tables.placement: table {spec.name!r}"
    if placement == "column_wise":
        if config.optimizer == "rowwise_adagrad":
            raise UserError(
                f"{table}: column_wise with rowwise_adagrad keeps a state a column shard, so results would depend on "
                "the number of workers; use adagrad or sgd, or row_wise"
            )
        if spec.dim % world_size or (spec.dim // world_size) % 4:
            raise UserError(
                f"{table}: column_wise over {world_size} workers needs a dim that is a multiple of {4 * world_size}, "
                f"it is {spec.dim}; use row_wise"
            )
    if config.optimizer == "adam" and spec.rows > config.max_dense_rows:
        raise UserError(
            f"tables.optimizer: adam touches every row each step, and table {spec.name!r} has {spec.rows:,} rows, "
            f"more than tables.max_dense_rows {config.max_dense_rows:,}; use rowwise_adagrad"
        )


def _check_patterns(config: TablesConfig, names: Iterable[str]) -> None:
    if isinstance(config.placement, dict):
        for pattern in config.placement:
            if not any(matches(name, (pattern,)) for name in names):
                raise UserError(f"tables.placement: pattern {pattern!r} fits no table; there are {', '.join(names)}")


def _deal(specs: tuple[TableSpec, ...], chosen: dict[str, Placement], world_size: int) -> dict[str, int]:
    """Rank of every table-wise table, by lookups times width, then by size."""
    work = [(0, 0)] * world_size
    ranks: dict[str, int] = {}
    own = [spec for spec in specs if chosen[spec.name] == "table_wise" and not spec.like]
    for spec in sorted(own, key=lambda s: (-len(s.features) * s.dim, -s.rows, s.name)):
        rank = min(range(world_size), key=lambda r: (work[r], r))
        work[rank] = (work[rank][0] + len(spec.features) * spec.dim, work[rank][1] + spec.rows)
        ranks[spec.name] = rank
    return ranks | {spec.name: ranks[spec.like] for spec in specs if spec.like in ranks}


def _placed(
    spec: TableSpec, placement: Placement, rank: int, config: TablesConfig, *, world_size: int, device: str
) -> Placed:  # fmt: skip
    weight = 4 * spec.rows * spec.dim
    state = _bytes(spec, config) - weight
    whole = placement in ("table_wise", "data_parallel")
    if placement == "data_parallel":
        kernel = "replicated"
    else:
        kernel = "dense" if config.optimizer == "adam" else "fused"
    each = weight + state if whole else -(-(weight + state) // world_size)
    return Placed(spec.name, spec.rows, spec.dim, placement, kernel, rank, weight, state, each)


def _bytes(spec: TableSpec, config: TablesConfig) -> int:
    state = 4 * spec.rows if config.optimizer == "rowwise_adagrad" else 0
    return 4 * spec.rows * spec.dim * (1 + OPTIMIZER_FLOATS[config.optimizer]) + state
