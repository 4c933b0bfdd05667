"""An auto-encoder of a row's blocks, some of which may be missing.

Shape letters: B rows, K blocks, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mdr_dist.nn.mlp import linear


class BlockAutoEncoder(nn.Module):
    """[B, K, D] → [B, D] and back; PReLU between layers, the decoder's widths mirror the encoder's.

    `pad` [D], learnt, stands in for a block that is missing; it starts from a normal law of deviation `pad_std`.
    """

    def __init__(self, blocks: int, dim: int, *, hidden: Sequence[int], pad_std: float) -> None:
        super().__init__()
        widths = [blocks * dim, *hidden, dim]
        self.pad = nn.Parameter(torch.randn(dim) * pad_std)
        self.encoder, self.decoder = _layers(widths), _layers(widths[::-1])

    def padded(self, blocks_BKD: Tensor, there_BK: Tensor) -> Tensor:
        """[B, K, D] the blocks, the pad vector where `there` is 0."""
        return torch.where(there_BK[:, :, None] > 0, blocks_BKD, self.pad)

    def encode(self, blocks_BKD: Tensor) -> Tensor:
        """[B, K, D] → [B, D]."""
        return self.encoder(blocks_BKD.flatten(1))

    def decode(self, h_BD: Tensor) -> Tensor:
        """[B, D] → [B, K, D]."""
        return self.decoder(h_BD).unflatten(1, (-1, h_BD.shape[1]))


def _layers(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [linear(inputs, outputs), nn.PReLU()]
    return nn.Sequential(*layers[:-1])
