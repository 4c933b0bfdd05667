"""Batches and looked-up rows without a data set or tables: for tests of methods alone. All in float64.

Shape letters: B rows, D width, K domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mdr_dist import catalog
from mdr_dist.batch import Batch, Ragged, world_size
from mdr_dist.methods.base import Method
from mdr_dist.schema import Feature, Schema
from mdr_dist.stage import TableSpec
from mdr_dist.train.update import weighted_sum

SCHEMA = Schema(
    name="tiny",
    domains=("a", "b", "c"),
    features=(
        Feature(name="user", kind="id", rows=7),
        Feature(name="item", kind="id", rows=9, vocabulary="item"),
        Feature(name="domain", kind="id", rows=3),
        Feature(name="history", kind="ids", rows=9, vocabulary="item"),
        Feature(name="price", kind="dense", width=2),
        Feature(name="tags", kind="ids", rows=5),
    ),
)


def make_batch(size: int, *, seed: int = 0, domains: tuple[int, ...] = (0, 1, 2), schema: Schema = SCHEMA) -> Batch:
    """A random global batch of `size` real rows, of these domains only; some lists are empty."""
    draw = np.random.default_rng(seed)
    domain = torch.tensor(draw.choice(domains, size))
    ids = {f.name: torch.tensor(draw.integers(0, f.rows, size)) for f in schema.of_kind("id")}
    lists: dict[str, Ragged] = {}
    for feature in schema.of_kind("ids"):
        lengths = draw.integers(0, 4, size)
        lists[feature.name] = Ragged(torch.tensor(draw.integers(0, feature.rows, lengths.sum())), torch.tensor(lengths))
    return Batch(
        ids={**ids, "domain": domain},
        lists=lists,
        dense={f.name: torch.tensor(draw.normal(size=(size, f.width))) for f in schema.of_kind("dense")},
        labels={"label": torch.tensor(draw.integers(0, 2, size).astype(float))},
        domain=domain,
        user_key=ids["user"],
        weight=torch.ones(size, dtype=torch.float64),
        position=torch.arange(size),
        count=size,
        domains=len(schema.domains),
        seed=seed,
    )


def cut(batch: Batch, world: int, *, padding: int = 0) -> list[Batch]:
    """A global batch's equal shares, padded at the end: by what it takes and `padding` more rows."""
    real = len(batch)
    total = -(-(real + padding) // world) * world
    index = torch.cat([torch.arange(real), torch.full((total - real,), real - 1)])
    weight = torch.cat([batch.weight, batch.weight.new_zeros(total - real)])
    position = torch.cat([batch.position, batch.position.new_full((total - real,), -1)])
    shares = []
    for mine in torch.arange(total).chunk(world):
        taken = {name: _take(getattr(batch, name), index[mine]) for name in ("ids", "dense", "labels", "lists")}
        rows = {"domain": batch.domain[index[mine]], "user_key": batch.user_key[index[mine]]}
        shares.append(replace(batch, **taken, **rows, weight=weight[mine], position=position[mine]))
    return shares


def _take(part: Mapping[str, Any], index: Tensor) -> dict[str, Any]:
    taken: dict[str, Any] = {}
    for name, column in part.items():
        if isinstance(column, Tensor):
            taken[name] = column[index]
        else:
            lists = column.values.split(column.lengths.tolist())
            taken[name] = Ragged(torch.cat([lists[i] for i in index]), column.lengths[index])
    return taken


def make_tables(method: Method, *, seed: int = 0) -> dict[str, Tensor]:
    """The method's tables, of large enough values that nothing is lost to rounding; leaves that collect gradients."""
    generator = torch.Generator().manual_seed(seed)
    return {
        spec.name: torch.randn(spec.rows, spec.dim, generator=generator, dtype=torch.float64).requires_grad_()
        for spec in method.tables()
    }


def look_up(method: Method, tables: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """ "table.feature" → [B, D], or [T, D] for a list of a table that does not pool."""
    return {
        f"{spec.name}.{feature}": _look_up(spec, tables[spec.name], batch, feature)
        for spec in method.tables()
        for feature in spec.features
    }


def _look_up(spec: TableSpec, table: Tensor, batch: Batch, feature: str) -> Tensor:
    if feature in batch.ids:
        return table[batch.ids[feature]]
    ragged = batch.lists[feature]
    if spec.pool == "none":
        return table[ragged.values]
    pooled = [
        table[ids].sum(0) / (max(len(ids), 1) if spec.pool == "mean" else 1)
        for ids in ragged.values.split(ragged.lengths.tolist())
    ]
    return torch.stack(pooled)


def build(settings: dict[str, Any], *, schema: Schema = SCHEMA, seed: int = 0) -> Method:
    """The method in float64; `settings` hold its name."""
    return catalog.build(settings, schema, seed=seed).double()


def gradients(
    settings: dict[str, Any], shares: list[Batch], stage_name: str = "", schema: Schema = SCHEMA
) -> dict[str, Tensor]:
    """Losses and gradients of dense parameters and whole tables, averaged over the processes of the group.

    Of the stage of that name, or the first one. Process r takes share r. What one process makes of the whole batch is
    what all of them must make together.
    """
    batch = shares[dist.get_rank() if world_size() > 1 else 0]
    method = build(settings, schema=schema)
    tables = make_tables(method)
    stage = next(stage for stage in method.stages() if stage_name in ("", stage.name))
    losses = stage.loss(look_up(method, tables, batch), batch)
    weighted_sum(stage.update, losses).backward()
    out = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
    leaves = {**dict(method.named_parameters()), **{f"tables/{name}": table for name, table in tables.items()}}
    out |= {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    if world_size() > 1:
        for value in out.values():
            dist.all_reduce(value)
            value.div_(world_size())
    return out


def gradients_of_each(
    settings: list[dict[str, Any]], shares: list[Batch], schema: Schema = SCHEMA
) -> list[dict[str, Tensor]]:
    """`gradients` of several settings, for one start of the processes."""
    return [gradients(each, shares, schema=schema) for each in settings]


def arrays(method: Method) -> dict[str, np.ndarray]:
    """Every dense parameter as numpy, for a program that computes the same without torch."""
    return {name: parameter.detach().numpy() for name, parameter in method.named_parameters()}
