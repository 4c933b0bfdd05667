"""One sharded torchrec collection: the tables that are trained in the same stages, of one kind.

Ids and pooled lists go through an EmbeddingBagCollection, a single id as a bag of length 1, where the output is the
row; unpooled lists through an EmbeddingCollection, whose backward is many times slower. What torchrec gets wrong when
left alone is closed here: key order frozen at the first batch, lazy outputs, start weights lost in sharding. Its
division of gradients by the number of processes stays: the objective is the average over processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed.optim import _apply_optimizer_in_backward as optimizer_in_backward
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    KeyedJaggedTensor,
    PoolingType,
)
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import (
    ParameterShardingGenerator,
    column_wise,
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingEnv
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from mdr_dist.batch import Batch, world_size
from mdr_dist.config import TablesConfig
from mdr_dist.stage import TableSpec
from mdr_dist.tables.optim import State, new_state, update
from mdr_dist.tables.placement import Placed
from mdr_dist.tables.shard import TableShard
from mdr_dist.tables.start import start_rows

_FUSED = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rowwise_adagrad": RowWiseAdagrad,
    "adam": torch.optim.Adam,
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
        self.pooled = specs[0].pool != "none"
        self.dense = placed[specs[0].name].kernel == "dense"
        self._features = tuple(dict.fromkeys(feature for spec in specs for feature in spec.features))
        self._keys = _output_keys(specs)
        self._means = {f"{s.name}.{f}": f for s in specs for f in s.features if s.pool == "mean"}
        self._ones: dict[int, Tensor] = {}
        plain = _bags(specs) if self.pooled else _lists(specs)
        if trained and not self.dense:
            # torchrec changes the dict it is given
            settings = {"lr": config.lr} | ({} if config.optimizer == "sgd" else {"eps": config.eps})
            optimizer_in_backward(_FUSED[config.optimizer], plain.parameters(), settings)
        sharder: Any = EmbeddingBagCollectionSharder() if self.pooled else EmbeddingCollectionSharder()
        plan = construct_module_sharding_plan(
            plain,
            {spec.name: _generator(placed[spec.name]) for spec in specs},
            sharder=sharder,
            local_size=world_size(),
            world_size=world_size(),
            device_type=device.type,
        )
        env = ShardingEnv.from_process_group(dist.group.WORLD)  # type: ignore[arg-type]
        self.sharded: Any = sharder.shard(plain, plan, env, device)
        self._states = self._new_states() if trained and self.dense else {}

    def start(self, seed: int) -> None:
        """Write this process's shards from (seed, table, row)."""
        for spec in self.specs.values():
            for shard in self.shards(spec.name):
                n, columns = shard.tensor.shape
                for first, rows in start_rows(spec, seed, row_start=shard.row_start, row_end=shard.row_start + n):
                    at = first - shard.row_start
                    shard.tensor[at : at + len(rows)] = rows[:, shard.col_start : shard.col_start + columns]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Rows by "table.feature": [B, dim], or [T, dim] for an unpooled list."""
        found = self.sharded(self._jagged(batch)).wait()
        if self.pooled:
            found = found.to_dict()
            return {key: _pooled(found[name], batch, self._means.get(key)) for key, name in self._keys.items()}
        return {key: found[name].values() for key, name in self._keys.items()}

    def _jagged(self, batch: Batch) -> KeyedJaggedTensor:
        """The batch's ids in this collection's own key order, whatever order the batch has."""
        size = len(batch)
        ones = self._ones.setdefault(size, torch.ones(size, dtype=torch.int64, device=batch.domain.device))
        values, lengths = [], []
        for feature in self._features:
            ragged = batch.lists.get(feature)
            values.append(batch.ids[feature] if ragged is None else ragged.values)
            lengths.append(ones if ragged is None else ragged.lengths)
        return KeyedJaggedTensor(
            keys=list(self._features), values=torch.cat(values), lengths=torch.cat(lengths), stride=size
        )

    def step(self, *, trained: bool) -> None:
        """Step the tables of a dense kernel by their gradients; fused ones moved in backward."""
        if not self.dense:
            return
        parameters = dict(self.sharded.named_parameters())
        for name, state in self._states.items():
            weight = self._local(name)
            if trained:
                gradient = parameters[self._full(name)].grad if len(weight) else None
                gradient = torch.zeros_like(weight) if gradient is None else gradient
                update(weight, gradient, state=state, config=self._config)
        for parameter in self.sharded.parameters():
            getattr(parameter, "_original_tensor", parameter).grad = None

    def shards(self, table: str) -> list[TableShard]:
        """This process's pieces of a table."""
        return [TableShard(shard.tensor, *shard.metadata.shard_offsets) for shard in self._weight(table).local_shards()]

    def state(self) -> dict[str, Any]:
        """Weights and optimizer state, sharded, to be filled in place."""
        found: dict[str, Any] = {}
        for name in self.specs:
            weight = self._weight(name)
            found[f"{name}/weight"] = weight
            for key, tensor in self._states.get(name, {}).items():
                found[f"{name}/{key}"] = tensor if key == "steps" else _sharded_like(weight, tensor)
        return found | ({} if self.dense else self._fused_state())

    def _fused_state(self) -> dict[str, Any]:
        state = self.sharded.fused_optimizer.state_dict()["state"]
        found: dict[str, Any] = {}
        for name in self.specs:
            for key, tensor in state.get(self._full(name), {}).items():
                found[f"{name}/{key.rpartition('.')[2]}"] = tensor
        return found

    def reset_optimizer(self) -> None:
        """Forget the optimizer state."""
        for key, tensor in self.state().items():
            if not key.endswith("/weight"):
                shards = tensor.local_shards() if isinstance(tensor, ShardedTensor) else ()
                for part in [shard.tensor for shard in shards] or [tensor]:
                    part.zero_()

    def _new_states(self) -> dict[str, State]:
        return {name: new_state(self._local(name), self._config) for name in self.specs}

    def _local(self, table: str) -> Tensor:
        """This process's one piece of a table, which may have no rows."""
        shards = self.shards(table)
        return shards[0].tensor if shards else torch.empty(0, self.specs[table].dim)

    def _weight(self, table: str) -> ShardedTensor:
        return self.sharded.state_dict()[self._full(table)]

    def _full(self, table: str) -> str:
        return f"{'embedding_bags' if self.pooled else 'embeddings'}.{table}.weight"


def _pooled(sums: Tensor, batch: Batch, feature: str | None) -> Tensor:
    """Sums over a row's list as they are, or, for a list `feature`, their mean; an empty list gives 0."""
    if feature is None or feature not in batch.lists:
        return sums
    return sums / batch.lists[feature].lengths.clamp(min=1)[:, None]


def _bags(specs: list[TableSpec]) -> EmbeddingBagCollection:
    configs = [
        EmbeddingBagConfig(
            name=spec.name,
            num_embeddings=spec.rows,
            embedding_dim=spec.dim,
            feature_names=list(spec.features),
            # a mean is divided out in _pooled: row-wise, torchrec's own is off by a few 1e-6
            pooling=PoolingType.SUM,
        )
        for spec in specs
    ]
    return EmbeddingBagCollection(tables=configs, device=torch.device("meta"))


def _lists(specs: list[TableSpec]) -> EmbeddingCollection:
    configs = [
        EmbeddingConfig(
            name=spec.name, num_embeddings=spec.rows, embedding_dim=spec.dim, feature_names=list(spec.features)
        )
        for spec in specs
    ]
    return EmbeddingCollection(tables=configs, device=torch.device("meta"))


def _output_keys(specs: list[TableSpec]) -> dict[str, str]:
    """Our key → torchrec's: a feature that several tables read is named after its table too."""
    readers = [feature for spec in specs for feature in spec.features]
    return {
        f"{spec.name}.{feature}": f"{feature}@{spec.name}" if readers.count(feature) > 1 else feature
        for spec in specs
        for feature in spec.features
    }


def _generator(placed: Placed) -> ParameterShardingGenerator:
    if placed.placement == "row_wise":
        return row_wise(compute_kernel=placed.kernel)
    if placed.placement == "column_wise":
        return column_wise(ranks=list(range(world_size())), compute_kernel=placed.kernel)
    return table_wise(rank=placed.rank, compute_kernel=placed.kernel)


def _sharded_like(weight: ShardedTensor, tensor: Tensor) -> ShardedTensor:
    """Optimizer state as DCP needs it: a bare local tensor would pass for a replicated one and be corrupted."""
    shards = [Shard(tensor=tensor, metadata=shard.metadata) for shard in weight.local_shards()]
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        shards, sharded_tensor_metadata=weight.metadata(), process_group=dist.group.WORLD
    )
