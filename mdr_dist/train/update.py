"""From losses to gradients: what each update rule does, up to the cut at the looked-up rows.

Any number of backward passes up to the leaves is free: tables are reached only afterwards, once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from mdr_dist.batch import world_size
from mdr_dist.rule import GradNorm, Masked, UpdateRule
from mdr_dist.stage import Losses


def backward(rule: UpdateRule, losses: Losses, leaves: Mapping[str, Tensor]) -> Losses:
    """Leave gradients on the leaves, which are named `table.feature`, and the dense parameters, as the rule says.

    Returns what the rule tells of this step, to be reported beside the losses: of `GradNorm` each loss's `weight/` and
    `norm/`, that of its weighted gradient.
    """
    if isinstance(rule, GradNorm):
        return _balanced(rule, losses)
    weighted_sum(rule, losses).backward()
    if isinstance(rule, Masked):
        factors = rule.factors()
        for key, leaf in leaves.items():
            table = key.rpartition(".")[0]
            if leaf.grad is not None and table in factors:
                leaf.grad *= factors[table]
    return {}


@torch.no_grad()
def settle(rule: UpdateRule) -> None:
    """What the rule does once the optimizers have stepped."""
    if not isinstance(rule, GradNorm):
        return
    weight_K = rule.trained()
    weight_K.clamp_(min=rule.floor)
    if rule.renormalise:
        weight_K.mul_(len(weight_K) / weight_K.sum())


def weighted_sum(rule: UpdateRule, losses: Losses) -> Tensor:
    """The scalar whose gradient is taken, but for trained weights; `KeyError` for a weight that names no loss."""
    unknown = set(rule.weights) - set(losses)
    if unknown:
        raise KeyError(f"weights for losses that the method does not give: {sorted(unknown)}")
    return sum(
        (loss * rule.weights.get(name, 1.0) for name, loss in losses.items() if rule.weights.get(name, 1.0)),
        next(iter(losses.values())).new_zeros(()),
    )


def _balanced(rule: GradNorm, losses: Losses) -> Losses:
    weight_K, loss_K = rule.trained(), torch.stack([losses[name] for name in rule.balanced])
    norm_K, value_K = _over_all(_gradients(loss_K, rule.shared()), loss_K.detach())
    with torch.no_grad():
        there_K = value_K > 0
        weighted_K = weight_K * norm_K
        rate_K = value_K / value_K.sum().clamp(min=1e-30) * there_K.sum()  # over the mean of those that have rows
        target_K = weighted_K.sum() / there_K.sum().clamp(min=1) * rate_K**rule.asymmetry
        weight_K.grad = (weighted_K - target_K).sign() * norm_K * there_K
    others = {name: loss for name, loss in losses.items() if name not in rule.balanced}
    total = (weight_K.detach() * loss_K).sum()
    (total + weighted_sum(rule, others) if others else total).backward()
    told = {"weight": weight_K.detach().clone(), "norm": weighted_K}
    return {f"{what}/{name}": of[k] for what, of in told.items() for k, name in enumerate(rule.balanced)}


def _gradients(loss_K: Tensor, shared: Tensor) -> Tensor:
    """[K, shared's size] each loss's gradient; the graph stays for the one backward pass that follows."""
    found = [torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)[0] for loss in loss_K]
    return torch.stack([(torch.zeros_like(shared) if g is None else g).flatten() for g in found])


def _over_all(gradient_KN: Tensor, value_K: Tensor) -> tuple[Tensor, Tensor]:
    """Norms [K] and losses [K] of the global batch, whose shares' averages over processes these are."""
    both = torch.cat([gradient_KN, value_K[:, None]], dim=1)
    if world_size() > 1:
        dist.all_reduce(both)
        both /= world_size()
    return both[:, :-1].norm(dim=1), both[:, -1]
