"""From losses to gradients: what each update rule does, up to the cut at the looked-up rows.

Any number of backward passes up to the leaves is free: tables are reached only afterwards, once.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mdr_dist.stage import Losses, Masked, UpdateRule


def backward(rule: UpdateRule, losses: Losses, leaves: Mapping[str, Tensor]) -> None:
    """Leave gradients on the leaves, which are named `table.feature`, and the dense parameters, as the rule says."""
    weighted_sum(rule, losses).backward()
    if isinstance(rule, Masked):
        factors = rule.factors()
        for key, leaf in leaves.items():
            table = key.rpartition(".")[0]
            if leaf.grad is not None and table in factors:
                leaf.grad *= factors[table]


def weighted_sum(rule: UpdateRule, losses: Losses) -> Tensor:
    """The scalar whose gradient is taken; `KeyError` for a weight that names no loss."""
    unknown = set(rule.weights) - set(losses)
    if unknown:
        raise KeyError(f"weights for losses that the method does not give: {sorted(unknown)}")
    return sum(
        (loss * rule.weights.get(name, 1.0) for name, loss in losses.items() if rule.weights.get(name, 1.0)),
        next(iter(losses.values())).new_zeros(()),
    )
