"""Lists as matrices of one length.

Shape letters: B rows, L length, T list entries, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Zeros = Literal["before", "after"]


def last_entries(x_TD: Tensor, lengths_B: Tensor, *, length: int, zeros: Zeros) -> Tensor:
    """[B, L, D] the last L = `length` entries of each row's list in their order, zeros `before` or `after` fewer.

    `x_TD` holds the rows' lists one after the other, of `lengths_B` entries each.
    """
    place_L = torch.arange(length, device=lengths_B.device)
    kept_B = lengths_B.clamp(max=length)
    number_BL = place_L - (length - kept_B)[:, None] if zeros == "before" else place_L.expand(len(kept_B), length)
    none_BL = (number_BL < 0) | (number_BL >= kept_B[:, None])
    first_B = lengths_B.cumsum(0) - kept_B
    entry_BL = (first_B[:, None] + number_BL).masked_fill(none_BL, len(x_TD))  # a row of zeros after the last
    return torch.cat([x_TD, x_TD.new_zeros(1, x_TD.shape[1])])[entry_BL]
