"""Dropout that draws by row of the global batch.

Shape letter: B rows.
"""

from __future__ import annotations

from torch import Tensor

from mdr_dist.batch import Batch


def kept(batch: Batch, *shape: int, rate: float, training: bool) -> Tensor:
    """[B, *shape] factors: in training 0 at this rate, else so that the mean is 1; the same however many processes."""
    if not training or not rate:
        return batch.weight.new_ones(len(batch), *shape)
    return (batch.uniform(*shape) >= rate) / (1 - rate)
