"""One sharded torchrec collection: the tables that are trained in the same stages, of one kind.

torchrec's division of gradients by the number of processes stays: the objective is the average over processes. Its
start weights, which do not survive sharding, are written over.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import Tensor, nn
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties
from torch.distributed._shard.sharded_tensor.shard import Shard
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import (
    ParameterShardingGenerator,
    column_wise,
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingEnv

from mdr_dist.batch import Batch, world_size
from mdr_dist.config import TablesConfig
from mdr_dist.stage import TableSpec
from mdr_dist.tables.lookup import Lookup
from mdr_dist.tables.optim import new_state, update
from mdr_dist.tables.placement import Placed
from mdr_dist.tables.shard import TableShard
from mdr_dist.tables.start import start_rows

FOLD_THREADS = 4  # up to so many threads the folded path, which uses one, is the faster
_FUSED = {
    "sgd": EmbOptimType.EXACT_SGD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
}


class Collection(nn.Module):
    """Sharded tables of one kind and kernel; `trained` says whether any stage trains them."""

    def __init__(
        self,
        specs: list[TableSpec],
        placed: dict[str, Placed],
        *,
        config: TablesConfig,
        trained: bool,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.specs, self._config = {spec.name: spec for spec in specs}, config
        self._dense, self._trained = placed[specs[0].name].kernel == "dense", trained
        slow = device.type == "cpu" and config.optimizer == "rowwise_adagrad" and trained
        self._lookup = Lookup(specs, folds=2 if slow and torch.get_num_threads() <= FOLD_THREADS else 1)
        plain = self._lookup.collection()
        sharder: Any = EmbeddingBagCollectionSharder(fused_params=_fused(config, trained=trained and not self._dense))
        self._plan: Any = construct_module_sharding_plan(
            plain,
            {spec.name: _generator(placed[spec.name]) for spec in specs},
            sharder=sharder,
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", world_size())),
            world_size=world_size(),
            device_type=device.type,
        )
        env = ShardingEnv.from_process_group(dist.group.WORLD)  # type: ignore[arg-type]
        self.sharded: Any = sharder.shard(plain, self._plan, env, device)
        self._steps = {name: torch.zeros(()) for name in self.specs}
        self._gradients: dict[str, Tensor] = {}  # of a dense kernel: backward adds to them in place
        self._shards: dict[str, list[TableShard]] = {name: [] for name in self.specs}
        for lookup in self.sharded._lookups:
            for kernel in lookup._emb_modules:
                self._take(kernel)

    def _take(self, kernel: Any) -> None:
        """Find the shards in a kernel's memory."""
        weights, tables = kernel.split_embedding_weights(), kernel.config.embedding_tables
        states: list[Any] = ([] if self._dense else kernel.emb_module.split_optimizer_states()) or [()] * len(weights)
        if self._dense:
            parameter = kernel.emb_module.weights
            parameter.grad = torch.zeros_like(parameter)
        for table, weight, state in zip(tables, weights, states, strict=True):
            stored = {f"momentum{i}": tensor for i, tensor in enumerate(state, start=1)}
            if self._dense and self._trained:
                stored = {key: state for key, state in new_state(weight, self._config).items() if key != "steps"}
                here = slice(weight.storage_offset(), weight.storage_offset() + weight.numel())
                self._gradients[table.name] = kernel.emb_module.weights.grad.flatten()[here].view_as(weight)
            columns = min(self.specs[table.name].dim, weight.shape[1])
            shard = TableShard({"weight": weight, **stored}, columns, *table.local_metadata.shard_offsets)
            self._shards[table.name].append(shard)

    def start(self, seed: int) -> None:
        """Write this process's shards from (seed, table, row)."""
        for spec in self.specs.values():
            for shard in self._shards[spec.name]:
                end = shard.row_start + len(shard.tensor)
                for first, rows in start_rows(spec, seed, row_start=shard.row_start, row_end=end):
                    at = first - shard.row_start
                    shard.tensor[at : at + len(rows)] = rows[:, shard.col_start : shard.col_start + shard.columns]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Rows by "table.feature": [B, dim], or [T, dim] for an unpooled list."""
        return self._lookup.rows(self.sharded(self._lookup.jagged(batch)).wait(), batch)

    def step(self, *, trained: bool) -> None:
        """Step the tables of a dense kernel by their gradients; fused ones moved in backward."""
        if trained and self._dense:
            for name, shards in self._shards.items():
                if not shards:  # a count of steps is saved as equal everywhere, also where no row of the table is
                    self._steps[name].add_(1)
                for shard in shards:
                    state = {**shard.stored, "steps": self._steps[name]}
                    update(shard.stored["weight"], self._gradients[name], state=state, config=self._config)
        for gradient in self._gradients.values():
            gradient.zero_()

    def shards(self, table: str) -> list[TableShard]:
        """This process's pieces of a table."""
        return self._shards[table]

    def state(self) -> dict[str, Any]:
        """Weights and optimizer state, sharded: memory itself, or a copy where rows are stored several times over."""
        found: dict[str, Any] = {}
        for name, spec in self.specs.items():
            state = new_state(torch.empty(0, spec.dim), self._config) if self._trained else {}
            for key, like in {"weight": torch.empty(0, spec.dim), **state}.items():
                steps = self._steps[name] if key == "steps" else None
                found[f"{name}/{key}"] = self._sharded(name, key, dims=like.dim()) if steps is None else steps
        return found

    def take(self, state: dict[str, Any]) -> None:
        """Take a `state()` whose tensors were filled."""
        for key, tensor in state.items():
            name, _, part = key.rpartition("/")
            filled = [] if part == "steps" else [shard.tensor for shard in tensor.local_shards()]
            for shard, rows in zip(self._shards[name] if filled else [], filled, strict=True):
                if rows.data_ptr() != shard.stored[part].data_ptr():
                    shard.view(part).copy_(rows)

    def reset_optimizer(self) -> None:
        """Forget the optimizer state."""
        for shard in (shard for shards in self._shards.values() for shard in shards):
            for key in shard.stored.keys() - {"weight"}:
                shard.stored[key].zero_()
        for steps in self._steps.values():
            steps.zero_()

    def _sharded(self, table: str, key: str, *, dims: int) -> ShardedTensor:
        """What DCP needs: it would take a bare local tensor for a replicated one and corrupt it."""
        spec = self.specs[table]
        size = (spec.rows, spec.dim)[:dims]
        places = [
            ShardMetadata(
                shard_offsets=list(place.shard_offsets[:dims]),
                shard_sizes=[place.shard_sizes[0], min(place.shard_sizes[1], spec.dim)][:dims],
                placement=place.placement,
            )
            for place in self._plan[table].sharding_spec.shards
        ]
        at = {tuple(place.shard_offsets): place for place in places}
        local = [
            Shard(tensor=shard.view(key).contiguous(), metadata=at[(shard.row_start, shard.col_start)[:dims]])
            for shard in self._shards[table]
        ]
        properties = TensorProperties(dtype=torch.float32)
        return ShardedTensor._init_from_local_shards_and_global_metadata(
            local, ShardedTensorMetadata(places, torch.Size(size), properties), process_group=dist.group.WORLD
        )


def _fused(config: TablesConfig, *, trained: bool) -> dict[str, Any]:
    """What fbgemm's kernels are told. Tables that nothing trains get the optimizer that keeps no state."""
    optimizer = _FUSED[config.optimizer] if trained else EmbOptimType.EXACT_SGD
    # an id beyond its table would otherwise be read as row 0 after one line of warning
    return {
        "optimizer": optimizer,
        "learning_rate": config.lr,
        "eps": config.eps,
        "bounds_check_mode": BoundsCheckMode.FATAL,
    }


def _generator(placed: Placed) -> ParameterShardingGenerator:
    if placed.placement == "row_wise":
        return row_wise(compute_kernel=placed.kernel)
    if placed.placement == "column_wise":
        return column_wise(ranks=list(range(world_size())), compute_kernel=placed.kernel)
    return table_wise(rank=placed.rank, compute_kernel=placed.kernel)
