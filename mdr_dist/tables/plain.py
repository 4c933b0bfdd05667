"""Unsharded tables: every process holds all rows. The specification of the sharded ones, and how exports are read.

Placement `data_parallel` is this too: gradients are averaged over processes, then every process takes the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from mdr_dist.batch import Batch, world_size
from mdr_dist.config import TablesConfig
from mdr_dist.stage import Stage, TableSpec, matches
from mdr_dist.tables.lookup import column
from mdr_dist.tables.optim import State, new_state, update
from mdr_dist.tables.shard import TableShard, map_shards
from mdr_dist.tables.start import start_rows


class PlainTables(nn.Module):
    """All tables as parameters, looked up by torch, stepped by the textbook optimizers of `optim`."""

    def __init__(self, specs: tuple[TableSpec, ...], config: TablesConfig | None = None) -> None:
        super().__init__()
        self.specs = {spec.name: spec for spec in specs}
        self._config = config or TablesConfig()
        self._weights = nn.ParameterDict({spec.name: nn.Parameter(torch.zeros(spec.rows, spec.dim)) for spec in specs})
        self._states: dict[str, State] = {}
        self._trained: tuple[str, ...] = ()
        self._read = tuple(self.specs)

    @classmethod
    def build(
        cls,
        specs: tuple[TableSpec, ...],
        stages: tuple[Stage, ...],
        *,
        config: TablesConfig,
        device: torch.device,
        seed: int,
    ) -> PlainTables:
        """Tables at their start, by the same call as `build_tables`."""
        tables = cls(specs, config)
        trained = [spec.name for spec in specs if any(matches(spec.name, stage.train) for stage in stages)]
        for spec in specs:
            for first, rows in start_rows(spec, seed, row_start=0, row_end=spec.rows):
                tables._weights[spec.name].data[first : first + len(rows)] = rows
        tables.to(device)
        tables._states = {name: new_state(tables._weights[name].data, config) for name in trained}
        return tables

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Rows by "table.feature": [B, dim], or [T, dim] for an unpooled list."""
        read = [self.specs[name] for name in self._read]
        return {f"{spec.name}.{f}": self._look_up(spec, f, batch) for spec in read for f in spec.features}

    def _look_up(self, spec: TableSpec, feature: str, batch: Batch) -> Tensor:
        weight, ids = self._weights[spec.name], column(batch, feature, spec)
        if isinstance(ids, Tensor):
            return functional.embedding(ids, weight)
        if spec.pool == "none":
            return functional.embedding(ids.values, weight)
        return functional.embedding_bag(ids.values, weight, ids.starts, mode=spec.pool)

    def start_stage(self, stage: Stage) -> None:
        """Only the tables that the stage trains move from now on, and only those that it reads are looked up."""
        self._trained = tuple(name for name in self._states if matches(name, stage.train))
        self._read = tuple(name for name in self.specs if matches(name, stage.read))

    @contextmanager
    def all_read(self) -> Iterator[None]:
        """Whatever the current stage reads, rows of all tables."""
        before, self._read = self._read, tuple(self.specs)
        try:
            yield
        finally:
            self._read = before

    def step(self) -> None:
        """Step the trained tables by their gradients, averaged over processes, and forget these."""
        weights = {name: self._weights[name] for name in self._trained}
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights.values()]
        if world_size() > 1 and gradients:
            together = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(together)
            parts = together.div_(world_size()).split([gradient.numel() for gradient in gradients])
            gradients = [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            update(weight.data, gradient, state=self._states[name], config=self._config)
        for weight in self._weights.values():
            weight.grad = None

    def reset_optimizer(self) -> None:
        """Forget all optimizer state."""
        for state in self._states.values():
            for tensor in state.values():
                tensor.zero_()

    def shards(self, table: str) -> list[TableShard]:
        """The one shard: the table itself."""
        weight = self._weights[table].data
        return [TableShard({"weight": weight}, weight.shape[1])]

    def map_rows(self, into: str, fn: Callable[..., Tensor], *sources: str) -> None:
        """`into[r] = fn(source[r], …)` for every row, in chunks of rows."""
        map_shards(fn, self.shards(into), *(self.shards(source) for source in sources))

    def load_table(self, table: str, rows: Tensor) -> None:
        """Take a table's rows, [rows, dim]."""
        self._weights[table].data.copy_(rows)

    def state(self) -> dict[str, Any]:
        """Weights and optimizer state for a checkpoint, `<table>/weight`, `<table>/momentum1`, …, filled in place."""
        found: dict[str, Any] = {f"{name}/weight": weight.data for name, weight in self._weights.items()}
        for name, state in self._states.items():
            found |= {f"{name}/{key}": tensor for key, tensor in state.items()}
        return found

    def load(self, fill: Callable[[dict[str, Any]], None]) -> None:
        """Have `fill` fill `state()` in place."""
        fill(self.state())
