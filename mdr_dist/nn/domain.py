"""One MLP a domain, each row going through its own domain's only.

Rows are sorted by domain, cut into K segments, and each segment multiplied by its domain's weights. So a row costs one
product however many domains there are: all K products and a choice take K times the work and [B, K, O] of memory, and a
weight matrix gathered for each row takes [B, I, O].

Shape letters: B rows, K domains, I inputs, O outputs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mdr_dist.nn.experts import StackedLinear


class DomainGroups:
    """A batch's rows grouped by domain. Made once a batch from `domain` [B]; reads K counts back from the device."""

    def __init__(self, domain: Tensor, domains: int) -> None:
        self._order = torch.argsort(domain, stable=True)
        self._back = torch.argsort(self._order)
        self._counts: list[int] = torch.bincount(domain, minlength=domains).tolist()

    def split(self, x: Tensor) -> list[Tensor]:
        """[B, …] → K tensors, domain k's rows in batch order; a domain may have none."""
        return list(_Permute.apply(x, self._order, self._back).split(self._counts))

    def join(self, parts: list[Tensor]) -> Tensor:
        """What `split` gave, or what was made of it row by row, back in batch order."""
        return _Permute.apply(torch.cat(parts), self._back, self._order)


class DomainMLP(nn.Module):
    """K MLPs, [B, I] → [B, O], with ReLU between layers and none on the output. `widths` are I, hidden ones, O."""

    def __init__(self, domains: int, widths: tuple[int, ...], *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(StackedLinear(domains, i, o, bias=bias) for i, o in pairwise(widths))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BI: Tensor, groups: DomainGroups) -> Tensor:
        """Each row through its domain's MLP."""
        parts = groups.split(x_BI)
        for i, layer in enumerate(self.layers):
            if i > 0:
                parts = [self.dropout(torch.relu(part)) for part in parts]
            parts = _by_domain(layer, parts)
        return groups.join(parts)


def _by_domain(layer: nn.Module, parts: list[Tensor]) -> list[Tensor]:
    assert isinstance(layer, StackedLinear)
    if layer.bias is None:
        return [part @ weight for part, weight in zip(parts, layer.weight.unbind(), strict=True)]
    banks = zip(layer.bias.unbind(), parts, layer.weight.unbind(), strict=True)
    return [torch.addmm(bias, part, weight) for bias, part, weight in banks]


class _Permute(torch.autograd.Function):
    """`x[order]` for a permutation. Its gradient is another permutation; indexing's own would add row by row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (back,) = ctx.saved_tensors
        return grads[0].index_select(0, back), None, None
