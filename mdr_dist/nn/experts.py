"""Several MLPs of one shape, their weights stacked, so that one batched product computes all of them.

Shape letters: S copies, B rows, I inputs, O outputs.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from mdr_dist.nn.mlp import start


class StackedLinear(nn.Module):
    """The weights of S linear layers: `weight` [S, I, O], `bias` [S, O] or None. Called: [S, B, I] → [S, B, O]."""

    def __init__(  # budget: as torch.nn.Linear, with the copies before
        self, copies: int, inputs: int, outputs: int, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(copies, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(copies, outputs)) if bias else None
        for copy in range(copies):
            start(self.weight[copy], None if self.bias is None else self.bias[copy])

    def forward(self, x_SBI: Tensor) -> Tensor:
        """Each copy on its own input."""
        if self.bias is None:
            return torch.bmm(x_SBI, self.weight)
        return torch.baddbmm(self.bias[:, None], x_SBI, self.weight)


class StackedMLP(nn.Module):
    """S experts, [S, B, I] → [S, B, O], with ReLU after every layer, the last too.

    `widths` are I, hidden ones, O. An input that all experts share is given as `x.expand(S, B, I)`, without a copy.
    """

    def __init__(self, copies: int, widths: tuple[int, ...], *, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(StackedLinear(copies, i, o) for i, o in pairwise(widths))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_SBI: Tensor) -> Tensor:
        """Every expert on its own input."""
        for layer in self.layers:
            x_SBI = self.dropout(torch.relu(layer(x_SBI)))
        return x_SBI
