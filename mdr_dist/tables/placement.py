"""Which process holds which part of which table: decided before anything starts, the same in every process.

Table-wise is the default, row-wise for tables that outgrow a device, though never for one with too few rows for every
process to have some. Tables are dealt to processes by their work, most
first, each to the process with least; a table `like` another goes where that one is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mdr_dist.config import Placement, TablesConfig
from mdr_dist.errors import UserError
from mdr_dist.schema import Schema
from mdr_dist.stage import TableSpec, matches
from mdr_dist.tables.shard import stored_dim

OPTIMIZER_FLOATS = {"sgd": 0, "adagrad": 1, "rowwise_adagrad": 0, "adam": 2}  # a weight; row-wise: one a row besides

GPU_SHARE = 0.7  # of a GPU's memory; the rest is for dense parameters, activations and exchange


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
    """Every table's place; a `UserError` for one that cannot be trained exactly, or at all, where it was put.

    A device has room for `device_gb`; without that, for most of a GPU's memory, and on CPU without limit.
    """
    by_name = _named(specs)
    room = _room(config, device)
    models = {spec.name: by_name.get(spec.like, spec) for spec in specs}
    wanted: dict[str, Placement] = {name: _wanted(model, config) for name, model in models.items()}
    large = {name for name in models if world_size > 1 and room and sum(_bytes(models[name], config)) > room / 2}
    chosen: dict[str, Placement] = {**wanted}
    for name, place in wanted.items():
        if place == "auto":
            chosen[name] = "row_wise" if name in large else "table_wise"
        if chosen[name] == "row_wise" and not _feeds_all(models[name], world_size):
            chosen[name] = "table_wise"
    for spec in specs:
        _check(spec, chosen[spec.name], config, world_size=world_size)
    while True:
        ranks = _deal(specs, chosen, world_size)
        placed = [_placed(s, chosen[s.name], ranks.get(s.name, -1), config, world_size=world_size) for s in specs]
        held = [sum(row.bytes_per_worker for row in placed if row.rank in (-1, rank)) for rank in range(world_size)]
        if not room or max(held) <= room:
            return placed
        free = {name for name in models if wanted[name] == "auto" and _feeds_all(models[name], world_size)}
        movable = [row for row in placed if row.rank >= 0 and row.table in free and world_size > 1]
        if not movable:
            raise UserError(
                f"tables: worker {held.index(max(held))} of {world_size} would hold {max(held) / 2**30:.2g} GB of "
                f"tables, more than a device's {room / 2**30:.2g} GB (tables.device_gb); use more workers or row_wise"
            )
        largest = max(movable, key=lambda row: (row.bytes_per_worker, row.table))
        chosen |= {name: "row_wise" for name in chosen if models[name] is models[largest.table]}


def check_tables(specs: tuple[TableSpec, ...], config: TablesConfig, schema: Schema) -> None:
    """Refuse, by a `UserError`, a placement of no table, and a table that looks up floats or has too few rows."""
    _check_patterns(config, _named(specs))
    known = {feature.name: feature for feature in schema.features}
    for spec in specs:
        for name in spec.features:
            feature = known.get(schema.item if name.startswith("negative_") else name)
            if feature is None:  # made by the method's own reading of the data; a batch without it is refused
                continue
            if feature.kind == "dense":
                raise UserError(f"table {spec.name!r} looks up feature {name!r}, which is dense: it has no ids")
            if feature.rows > spec.rows and spec.start is None:
                raise UserError(
                    f"table {spec.name!r} has {spec.rows:,} rows, but its feature {name!r} has {feature.rows:,} ids"
                )


def _named(specs: tuple[TableSpec, ...]) -> dict[str, TableSpec]:
    """The tables by name; a `UserError` for one that cannot be told apart or has no such table to be like."""
    by_name = {spec.name: spec for spec in specs}
    if len(by_name) < len(specs):
        raise UserError("two tables share a name: table names must be unique")
    for spec in specs:
        if "." in spec.name or spec.rows < 1 or spec.dim < 1:
            raise UserError(f"table {spec.name!r}: a name without '.', and rows and dim of at least 1 are needed")
        model = by_name.get(spec.like, spec)
        if spec.like and (model is spec or model.like or (model.rows, model.dim) != (spec.rows, spec.dim)):
            raise UserError(f"table {spec.name!r} is like {spec.like!r}, which is no table of the same rows and dim")
    return by_name


def _room(config: TablesConfig, device: str) -> float:
    """Bytes for tables on a device, 0 for no limit. All workers' GPUs are taken to be alike."""
    if config.device_gb or device != "cuda" or not torch.cuda.is_available():
        return config.device_gb * 2**30
    return torch.cuda.get_device_properties(0).total_memory * GPU_SHARE


def _feeds_all(spec: TableSpec, world_size: int) -> bool:
    """Whether every process gets a row if the table is cut by rows.

    For a shard without rows fbgemm's CPU kernel takes the table's size from memory beyond the list of sizes.
    """
    share = -(-spec.rows // world_size)
    return share * (world_size - 1) < spec.rows


def _wanted(spec: TableSpec, config: TablesConfig) -> Placement:
    if not isinstance(config.placement, dict):
        return config.placement
    for pattern, place in config.placement.items():
        if matches(spec.name, (pattern,)):
            return place
    return "auto"


def _check(spec: TableSpec, placement: Placement, config: TablesConfig, *, world_size: int) -> None:
    table = f"tables.placement: table {spec.name!r}"
    if placement == "column_wise":
        if spec.like:
            raise UserError(f"{table} is like {spec.like!r}, and row operations need whole rows: not column_wise")
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


def _placed(spec: TableSpec, placement: Placement, rank: int, config: TablesConfig, *, world_size: int) -> Placed:
    weight, state = _bytes(spec, config, stored=placement != "data_parallel")
    kernel = "dense" if config.optimizer == "adam" else "fused"
    if placement == "data_parallel":
        kernel = "replicated"
    whole = placement in ("table_wise", "data_parallel")
    each = weight + state if whole else -(-(weight + state) // world_size)
    return Placed(spec.name, spec.rows, spec.dim, placement, kernel, rank, weight, state, each)


def _bytes(spec: TableSpec, config: TablesConfig, *, stored: bool = True) -> tuple[int, int]:
    """Bytes of weights and of optimizer state, if some stage trains the table."""
    weight = 4 * spec.rows * (stored_dim(spec.dim) if stored else spec.dim)
    rowwise = 4 * spec.rows if config.optimizer == "rowwise_adagrad" else 0
    return weight, weight * OPTIMIZER_FLOATS[config.optimizer] + rowwise
