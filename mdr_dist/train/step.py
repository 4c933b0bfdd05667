"""One step: cut the graph at the looked-up rows, apply the update rule, one backward pass into the tables.

Fused table optimizers act inside backward, so a rule with several backward passes would step tables early; up to the
cut it may have as many as it likes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.stage import Losses, Stage, matches
from mdr_dist.tables import Tables
from mdr_dist.train.dense import DenseOptimizers
from mdr_dist.train.update import backward, settle


def train_step(tables: Tables, stage: Stage, *, batch: Batch, dense: DenseOptimizers) -> Losses:
    """Train on one batch; return this process's losses, detached, and what the update rule tells beside them."""
    rows = tables(batch)
    leaves = {key: row.detach().requires_grad_(_trained(key, stage)) for key, row in rows.items()}
    losses = stage.loss(leaves, batch)
    _check_finite(losses, stage)
    told = backward(stage.update, losses, leaves)
    into_tables(rows, leaves)
    dense.step()
    tables.step()
    settle(stage.update)
    return {name: loss.detach() for name, loss in losses.items()} | told


def into_tables(rows: dict[str, Tensor], leaves: dict[str, Tensor]) -> None:
    """The one backward pass into the tables. A trained row that no loss reached gets a zero gradient.

    Without that a process whose rows miss a table would stay out of the exchange that the others wait in.
    """
    trained = [key for key, leaf in leaves.items() if leaf.requires_grad]
    if trained:
        gradients = [_gradient(leaves[key]) for key in trained]
        torch.autograd.backward([rows[key] for key in trained], gradients)


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _trained(key: str, stage: Stage) -> bool:
    return matches(key.rpartition(".")[0], stage.train)


def _check_finite(losses: Losses, stage: Stage) -> None:
    """Before anything moves, where it costs nothing. A GPU would be waited for: there the monitor looks, later."""
    for name, loss in losses.items():
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            raise FloatingPointError(f"stage {stage.name!r}: loss {name!r} is {loss.item()}")
