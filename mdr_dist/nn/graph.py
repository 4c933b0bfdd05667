"""Propagation over the graph around a batch's rows.

Shape letters: N nodes, M nodes whose neighbours are all here, E neighbours, D width, O width of the output.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from mdr_dist.batch import Graph
from mdr_dist.nn.mlp import linear

SLOPE = 0.2  # of the leaky ReLU, TensorFlow's default


class BiInteraction(nn.Module):
    """Layers of bi-interaction, [N, D] → [R, O]: what the graph's first R nodes, those of the rows, come to.

    With n the mean of a node's neighbours, a layer makes leaky((e + n) W1 + b1) + leaky((e * n) W2 + b2) of its e, and
    then drops out. The output is the input beside every layer's output scaled to length 1; the next layer's input is
    not scaled. A layer computes only the nodes that the layers after it need. `widths` are D and each layer's.
    """

    def __init__(self, widths: tuple[int, ...], *, dropout: float) -> None:
        super().__init__()
        self.sums, self.products = (nn.ModuleList(linear(i, o) for i, o in pairwise(widths)) for _ in range(2))
        self.width, self._dropout = sum(widths), dropout

    def forward(self, e_ND: Tensor, graph: Graph, *, seed: int) -> Tensor:
        """`seed` is the step's, for dropout, which is a node's own in every process."""
        parts = [e_ND[: graph.nodes[0]]]
        for layer, (add, multiply) in enumerate(zip(self.sums, self.products, strict=True)):
            needed = len(self.sums) - 1 - layer  # hops of the nodes that the layers to come start from
            near_MD = mean_of_neighbours(e_ND, graph, hops=needed)
            own_MD = e_ND[: graph.nodes[needed]]
            e_ND = functional.leaky_relu(add(own_MD + near_MD), SLOPE)
            e_ND = e_ND + functional.leaky_relu(multiply(own_MD * near_MD), SLOPE)
            if self.training and self._dropout:
                e_ND = node_dropout(e_ND, graph.codes, rate=self._dropout, seed=seed + layer)
            parts.append(functional.normalize(e_ND[: graph.nodes[0]], dim=1))
        return torch.cat(parts, dim=1)


def mean_of_neighbours(e_ND: Tensor, graph: Graph, *, hops: int) -> Tensor:
    """[M, D] the mean of the neighbours of each node within so many hops; 0 where there are none."""
    starts = graph.starts[: graph.nodes[hops] + 1]
    sources = graph.sources[: graph.edges[hops]]
    return functional.embedding_bag(sources, e_ND, starts, mode="mean", include_last_offset=True)


def node_dropout(x_MD: Tensor, codes: Tensor, *, rate: float, seed: int) -> Tensor:
    """`x` with entries put to 0 at this rate and the others scaled up, drawn from seed, node and column alone."""
    columns = torch.arange(x_MD.shape[1], device=codes.device)
    # splitmix64's constants, as signed numbers; products wrap around
    state = _mixed(codes[: len(x_MD), None] - 0x61C8864680B583EB) ^ _mixed(columns * 0x1FFFFFFFFFFFFFC7 + seed)
    kept = (_mixed(state) >> 11 & 0xFFFFFF) >= rate * 2**24
    return x_MD * kept / (1 - rate)


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ (x >> 30)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31)
