"""Documents as lists of words, one after the other: nothing is padded, so that nothing is computed for padding.

What stands beside a document's ends counts as zero. Shape letters: W words of the batch, T words in all documents, N
documents, D width, F filters, C words of a window, M aspects, X numbers of a word.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mdr_dist.batch import Ragged
from mdr_dist.nn.mlp import start


def chosen(words: Ragged, document: Tensor) -> Ragged:
    """The lists of documents [N'], in that order."""
    lengths = words.lengths[document]
    first = words.starts[document] - (lengths.cumsum(0) - lengths)
    total = int(lengths.sum())
    place = torch.arange(total, device=lengths.device) + first.repeat_interleave(lengths, output_size=total)
    return Ragged(words.values[place], lengths)


def windows(words: Ragged, size: int, *, outside: int) -> Tensor:
    """[T, C] the values around each word, itself in the middle; `outside` beyond the ends of its document."""
    total, device = len(words.values), words.values.device
    offset = torch.arange(size, device=device) - size // 2
    nth = words.nth[:, None] + offset
    inside = (nth >= 0) & (nth < words.lengths[words.row][:, None])
    place = (torch.arange(total, device=device)[:, None] + offset).clamp(0, max(total - 1, 0))
    return torch.where(inside, words.values[place], outside) if total else place


def windowed(tap_WCX: Tensor, words: Ragged) -> Tensor:
    """[T, X] of each word of a document the sum over its window, a word at place c of it counting by its tap c.

    A word's taps [W, C, X] are made once, wherever and however often it stands: what a window makes is a sum of rows.
    """
    size = tap_WCX.shape[1]
    at_TC = windows(words, size, outside=len(tap_WCX)) * size + torch.arange(size, device=tap_WCX.device)
    taps = torch.cat([tap_WCX.flatten(0, 1), tap_WCX.new_zeros(size, tap_WCX.shape[2])])
    return _BagSums.apply(taps, Ragged(at_TC.flatten(), torch.full_like(at_TC[:, 0], size)))


class Convolution(nn.Module):
    """A convolution over the words of documents and ReLU: vectors [W, D] of the words that occur → [T, F].

    It costs the products of W words with the filters, where a convolution over documents costs those of T.
    """

    def __init__(self, width: int, filters: int, *, window: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(window * filters, width)), nn.Parameter(torch.empty(filters))
        start(self.weight, self.bias)

    def forward(self, x_WD: Tensor, words: Ragged) -> Tensor:
        """`words` are places in `x_WD`."""
        tap_WCF = functional.linear(x_WD, self.weight).unflatten(1, (-1, len(self.bias)))
        return torch.relu(windowed(tap_WCF, words) + self.bias)


def attention(logit_TM: Tensor, x_TMK: Tensor, words: Ragged) -> Tensor:
    """[N, M, K] the mean of `x` over the words of each document, by a softmax of `logit` over them; 0 without words."""
    every = torch.arange(len(logit_TM), device=logit_TM.device)
    most_NM = largest(logit_TM.detach(), Ragged(every, words.lengths))
    weight_TM = (logit_TM - most_NM.index_select(0, words.row)).exp()
    whole_NM = sums(weight_TM, words).clamp(min=1)  # it is less only without words: the largest counts 1
    return sums(x_TMK * weight_TM[:, :, None], words) / whole_NM[:, :, None]


def largest(x_WX: Tensor, words: Ragged) -> Tensor:
    """[N, X] of vectors [W, X], in which words are places, the largest of each number; 0 for a document without words.

    Vectors of all T words are never made.
    """
    # not by segment_reduce, whose gradient is wrong where a document has its largest twice
    return functional.embedding_bag(words.values, x_WX, words.starts, mode="max")


def sums(x_T: Tensor, words: Ragged) -> Tensor:
    """[N, …] the sum over the words of each document of `x` [T, …]; 0 for one without words."""
    every = torch.arange(len(x_T), device=x_T.device)
    own = Ragged(words.row, torch.ones_like(every))
    return _BagSums.apply(x_T.flatten(1), Ragged(every, words.lengths), own).view(-1, *x_T.shape[1:])


class _BagSums(torch.autograd.Function):
    """[N, X] the sums of bags of the rows of `x` [R, X].

    As `embedding_bag`, whose gradient takes several times as long. Here it is the sum over the bags that a row is `of`,
    which are found by sorting if they are not told; always in the same order.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bags: Ragged, of: Ragged | None = None) -> Tensor:
        ctx.rows, ctx.bags, ctx.of = len(x), bags, of
        return functional.embedding_bag(bags.values, x, bags.starts, mode="sum")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        of = ctx.of or _transposed(ctx.bags, ctx.rows)
        return functional.embedding_bag(of.values, grad_outputs[0], of.starts, mode="sum"), None, None


def _transposed(bags: Ragged, rows: int) -> Ragged:
    """Row for row the bags that it is in."""
    return Ragged(bags.row[bags.values.argsort(stable=True)], bags.values.bincount(minlength=rows))
