"""From losses to gradients: what each update rule does, up to the cut at the looked-up rows.

Any number of backward passes up to the leaves is free: tables are reached only afterwards, once.
"""

from __future__ import annotations

from torch import Tensor

from mdr_dist.stage import Losses, Sum, UpdateRule


def backward(rule: UpdateRule, losses: Losses) -> None:
    """Leave gradients on the leaves and the dense parameters, as the rule says."""
    if isinstance(rule, Sum):
        weighted_sum(rule, losses).backward()
        return
    raise TypeError(f"no update rule {type(rule).__name__}")


def weighted_sum(rule: Sum, losses: Losses) -> Tensor:
    """The scalar whose gradient is taken; `KeyError` for a weight that names no loss."""
    unknown = set(rule.weights) - set(losses)
    if unknown:
        raise KeyError(f"weights for losses that the method does not give: {sorted(unknown)}")
    return sum(
        (loss * rule.weights.get(name, 1.0) for name, loss in losses.items() if rule.weights.get(name, 1.0)),
        next(iter(losses.values())).new_zeros(()),
    )
