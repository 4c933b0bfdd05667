"""Auto-encoders: of a row's blocks, some of which may be missing; and of sparse rows with side information.

Shape letters: B rows, K blocks, D width, H width of a hidden layer, S width of side information.
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


class SideAutoEncoder(nn.Module):
    """Two layers to a code and two back, side information being added to each on the way there and told at the end.

    Of sparse rows, whose first and last weights are embeddings outside: what comes in is a sum of some, and what goes
    out is to be multiplied with some. `side` is S; 0: there is none.
    """

    def __init__(self, *, hidden: int, dim: int, side: int = 0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.code, self.back = linear(hidden, dim), linear(dim, hidden)
        if side:
            self.side_in, self.side_code = (linear(side, width, bias=False) for width in (hidden, dim))
            self.side_out = linear(hidden, side)

    def encode(self, x_BH: Tensor, side_BS: Tensor | None = None) -> Tensor:
        """[B, D] the code."""
        if side_BS is None:
            return self.code(torch.tanh(x_BH + self.bias))
        h_BH = torch.tanh(x_BH + self.bias + self.side_in(side_BS))
        return self.code(h_BH) + self.side_code(side_BS)

    def decode(self, code_BD: Tensor) -> Tensor:
        """[B, H] the last hidden layer."""
        return torch.tanh(self.back(code_BD))

    def tell(self, h_BH: Tensor) -> Tensor:
        """[B, S] the side information again."""
        return self.side_out(h_BH)


def _layers(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [linear(inputs, outputs), nn.PReLU()]
    return nn.Sequential(*layers[:-1])
