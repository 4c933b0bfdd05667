"""Documents as lists of words, one after the other: nothing is padded, so that nothing is computed for padding.

What stands beside a document's ends counts as zero. Shape letters: W words of the batch, T words in all documents, N
documents, D width, F filters, C words of a window, M aspects, X numbers of a word.
"""

from __future__ import annotations

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
    return functional.embedding_bag(at_TC, taps, mode="sum")


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


def softmax(logit_TM: Tensor, words: Ragged) -> Tensor:
    """[T, M] a softmax over the words of each document."""
    of = words.row
    largest = torch.segment_reduce(logit_TM.detach(), "max", lengths=words.lengths, axis=0)
    weight_TM = (logit_TM - largest[of]).exp()
    return weight_TM / torch.segment_reduce(weight_TM, "sum", lengths=words.lengths, axis=0)[of]


def largest(x_WX: Tensor, words: Ragged) -> Tensor:
    """[N, X] of vectors [W, X], in which words are places, the largest of each number; 0 for a document without words.

    Vectors of all T words are never made.
    """
    # not by segment_reduce, whose gradient is wrong where a document has its largest twice
    return functional.embedding_bag(words.values, x_WX, words.starts, mode="max")


def sums(x_T: Tensor, words: Ragged) -> Tensor:
    """[N, …] the sum over the words of each document of `x` [T, …]; 0 for one without words."""
    return torch.segment_reduce(x_T.flatten(1), "sum", lengths=words.lengths, axis=0).view(-1, *x_T.shape[1:])
