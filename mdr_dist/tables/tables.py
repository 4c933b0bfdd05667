"""All embedding tables of a lane: the only module that is ever sharded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mdr_dist.batch import Batch, world_size
from mdr_dist.config import TablesConfig
from mdr_dist.stage import Stage, TableSpec, matches
from mdr_dist.tables.collection import Collection
from mdr_dist.tables.placement import plan
from mdr_dist.tables.plain import PlainTables
from mdr_dist.tables.quiet import quiet
from mdr_dist.tables.shard import TableShard, map_shards

Part = Collection | PlainTables


class Tables(nn.Module):
    """Tables trained in the same stages share one collection.

    A collection whose tables the current stage does not train gets no backward pass, which freezes it exactly under
    any optimizer. Needs a process group, of one process at least.
    """

    def __init__(
        self, specs: tuple[TableSpec, ...], parts: list[tuple[tuple[str, ...], Collection | PlainTables]]
    ) -> None:
        super().__init__()
        self.specs = {spec.name: spec for spec in specs}
        self._parts: list[Part] = [part for _, part in parts]
        self._owner = {name: part for names, part in parts for name in names}
        self.parts = nn.ModuleList(self._parts)
        self._order = [f"{spec.name}.{feature}" for spec in specs for feature in spec.features]
        self._trained: set[int] = set()
        self._read = set(map(id, self._parts))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Rows by "table.feature", in the order declared: [B, dim], or [T, dim] for an unpooled list.

        Differentiable once. All processes call it alike, and either all or none go backward through a collection.
        Of the tables only those that the current stage reads; before any stage, all. Rows of tables that it does not
        train carry no graph.
        """
        rows: dict[str, Tensor] = {}
        for part in (part for part in self._parts if id(part) in self._read):
            with torch.set_grad_enabled(torch.is_grad_enabled() and id(part) in self._trained):
                rows |= part(batch)
        return {key: rows[key] for key in self._order if key in rows}

    def start_stage(self, stage: Stage) -> None:
        """Only the tables that the stage trains move from now on; `ValueError` if they were not grouped for it."""
        self._trained = {id(self._owner[name]) for name in self.specs if matches(name, stage.train)}
        self._read = {id(self._owner[name]) for name in self.specs if matches(name, stage.read)}
        for name, part in self._owner.items():
            now = (id(part) in self._trained, id(part) in self._read)
            if now != (matches(name, stage.train), matches(name, stage.read)):
                raise ValueError(f"stage {stage.name!r} is not among those that the tables were built for")
        for part in self._parts:
            if isinstance(part, PlainTables):
                part.start_stage(stage)

    @contextmanager
    def all_read(self) -> Iterator[None]:
        """Whatever the current stage reads, rows of all tables: what ranks need not be what a stage trains."""
        with ExitStack() as stack:
            stack.callback(setattr, self, "_read", self._read)
            self._read = set(map(id, self._parts))
            for part in self._parts:
                if isinstance(part, PlainTables):
                    stack.enter_context(part.all_read())
            yield

    def step(self) -> None:
        """Step what did not move in backward, and forget gradients."""
        for part in self._parts:
            if isinstance(part, PlainTables):
                part.step()
            else:
                part.step(trained=id(part) in self._trained)

    def reset_optimizer(self) -> None:
        """Forget all optimizer state."""
        for part in self._parts:
            part.reset_optimizer()

    def shards(self, table: str) -> list[TableShard]:
        """This process's pieces of a table; views, none where it has no part in it."""
        return self._owner[table].shards(table)

    def map_rows(self, into: str, fn: Callable[..., Tensor], *sources: str) -> None:
        """`into[r] = fn(source[r], …)` for every row, shard by shard, in chunks, without communication."""
        map_shards(fn, self.shards(into), *(self.shards(source) for source in sources))

    def state(self) -> dict[str, Any]:
        """`<table>/weight` and optimizer state for torch.distributed.checkpoint to save, or to fill in `load`.

        The names do not depend on placement or grouping, so that any placement loads what any other saved.
        """
        return {key: value for part in self._parts for key, value in part.state().items()}

    def load(self, fill: Callable[[dict[str, Any]], None]) -> None:
        """Have `fill` fill the tensors of `state()`, and take them."""
        states = [part.state() for part in self._parts]
        fill({key: value for state in states for key, value in state.items()})
        for part, state in zip(self._parts, states, strict=True):
            if isinstance(part, Collection):
                part.take(state)


def build_tables(
    specs: tuple[TableSpec, ...], stages: tuple[Stage, ...], *, config: TablesConfig, device: torch.device, seed: int
) -> Tables:
    """Sharded tables at their start, in every process of the group alike; `UserError` where a placement cannot be."""
    placed = {row.table: row for row in plan(specs, config, world_size=world_size(), device=device.type)}
    groups: dict[tuple[Any, ...], list[TableSpec]] = {}
    for spec in specs:
        signature = tuple((matches(spec.name, stage.train), matches(spec.name, stage.read)) for stage in stages)
        key = (placed[spec.name].kernel, spec.features if spec.pool == "none" else None, signature)
        groups.setdefault(key, []).append(spec)
    parts: list[tuple[tuple[str, ...], Part]] = []
    for (kernel, _, signature), members in groups.items():
        names = tuple(spec.name for spec in members)
        if kernel == "replicated":
            parts.append((names, PlainTables.build(tuple(members), stages, config=config, device=device, seed=seed)))
            continue
        with quiet():
            collection = Collection(
                members, placed, config=config, trained=any(train for train, _ in signature), device=device
            )  # type: ignore[arg-type]
        collection.start(seed)
        parts.append((names, collection))
    return Tables(specs, parts)
