"""A plain multi-layer perceptron, and how every weight matrix here starts.

Shape letters: B rows, I inputs, O outputs.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU after each, the last too: [B, I] → [B, O]. `widths` are I, hidden ones, O."""

    def __init__(self, widths: tuple[int, ...], *, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear(i, o) for i, o in pairwise(widths))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BI: Tensor) -> Tensor:
        """[B, I] → [B, O]."""
        for layer in self.layers:
            x_BI = self.dropout(torch.relu(layer(x_BI)))
        return x_BI


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer, its weights at their start."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    start(layer.weight, layer.bias)
    return layer


@torch.no_grad()
def start(weight: Tensor, bias: Tensor | None) -> None:
    """Draw a weight matrix from Glorot's normal law (deviation √(2 / (I + O))), in place; biases start at 0."""
    nn.init.xavier_normal_(weight)
    if bias is not None:
        bias.zero_()
