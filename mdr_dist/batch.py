"""One step's rows as a method sees them, and sums over all processes.

Shape letters: B rows of this process, K domains, T list entries.
"""

# torch and yaml are only partly typed
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """A list feature: `values` [T] int64, the rows' lists one after the other; `lengths` [B] int64."""

    values: Tensor
    lengths: Tensor

    @cached_property
    def starts(self) -> Tensor:
        """[B] where each row's list begins."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def row(self) -> Tensor:
        """[T] the row whose list each entry is of."""
        rows = torch.arange(len(self.lengths), device=self.lengths.device)
        return rows.repeat_interleave(self.lengths, output_size=len(self.values))

    @property
    def nth(self) -> Tensor:
        """[T] the place of each entry in its own list."""
        return torch.arange(len(self.values), device=self.lengths.device) - self.starts[self.row]

    def to(self, device: torch.device) -> Ragged:
        """The same lists on another device."""
        return Ragged(self.values.to(device, non_blocking=True), self.lengths.to(device, non_blocking=True))


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What batches bring beside the data set's features, in whose place it comes where names agree; by itself nothing.

    active      the dense feature `active` [B, K]: 1 where the row's user has positive training rows in a domain
    history     the list feature `history`: the items that the row's user took in training, in order, each once
    catalogue   the list feature `catalogue`: the items of the slice's domains, in order, of more than so many a uniform
                sample of the step; and `taken`: the items that the row's user took in the split that is read
    hops        the list features `user_nodes` and `item_nodes`: who is within so many interactions of the batch's
                users, items and negatives; `Batch.graph` says how they hang together
    neighbours  of a node that are drawn at most, uniformly and anew at each step; 0: all
    documents   which of `DOCUMENTS` come as `Batch.documents`, with the list feature `words`: the words in them, in
                order, each once
    leave_out   whether an item's document lacks what the row's user wrote about the item
    means       the dense feature `mean` [B, 1]: the mean label of the row's item in its domain, as if it had `damping`
                more rows with the mean label of the domain; of an item without rows the latter
    ratings     so many at most of a user or an item, evenly spread over all of them: the list features `rated_<k>`, the
                items that the row's user rated in domain k, for each one of the job, and `raters`, the users who rated
                the row's item in its domain; with `Batch.ratings`. A default item has none

    All of it is training interactions of the slice's domains, `history` and neighbours of those of its `context`; where
    users and items are ranked, of the job's, and then `catalogue` and `taken` are empty. What is drawn is the same in
    all processes, and at all steps of a sweep. Entries of lists that are of no row count as the first row's.
    """

    active: bool = False
    history: bool = False
    catalogue: int = 0
    hops: int = 0
    neighbours: int = 0
    documents: tuple[str, ...] = ()
    leave_out: bool = False
    means: bool = False
    damping: float = 0.0
    ratings: int = 0

    def lists(self, domains: int) -> tuple[str, ...]:
        """The list features, where there are so many domains."""
        named = {
            "history": self.history,
            "catalogue": self.catalogue,
            "taken": self.catalogue,
            "user_nodes": self.hops,
            "item_nodes": self.hops,
            "words": self.documents,
            **{f"rated_{k}": self.ratings for k in range(domains)},
            "raters": self.ratings,
        }
        return tuple(name for name, there in named.items() if there)


# what a document is put together from: the reviews that the row's user wrote in the row's domain, or in the job's other
# one; reviews by others who rated what the user rated there, and rated it alike; and all reviews of the row's item
DOCUMENTS = ("user", "other", "auxiliary", "item")


@dataclass(frozen=True, kw_only=True)
class Documents:
    """The documents of a batch's rows; what several rows have in common stands there once.

    words  `values` [T] int64, places in the list feature `words`, and `lengths` [N] of the documents
    at     kind → [B] int64, each row's document
    other  [B] int64, the domain that `other` and `auxiliary` documents are of
    """

    words: Ragged
    at: Mapping[str, Tensor]
    other: Tensor

    def to(self, device: torch.device) -> Documents:
        """The same documents on another device."""
        at = {kind: places.to(device, non_blocking=True) for kind, places in self.at.items()}
        return Documents(words=self.words.to(device), at=at, other=self.other.to(device, non_blocking=True))


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The users and items around a batch's rows, in order of their distance; a node stands there once.

    order    [N] int64, each node's place among the entries of `user_nodes` followed by those of `item_nodes`
    sources  [E] int64 the neighbours of the nodes that have all theirs here, node by node;
    starts   [M+1] int64 where each of those M nodes' neighbours begin, and the end
    codes    [N] int64, numbers that tell nodes apart in every process
    at       id feature → [B] int64, the node of each row's id
    nodes    how many nodes are within 0, 1, … hops of the rows;  edges  how many `sources` those have, the last but one
    """

    order: Tensor
    sources: Tensor
    starts: Tensor
    codes: Tensor
    at: Mapping[str, Tensor]
    nodes: tuple[int, ...]
    edges: tuple[int, ...]

    def to(self, device: torch.device) -> Graph:
        """The same graph on another device."""
        moved = {n: getattr(self, n).to(device, non_blocking=True) for n in ("order", "sources", "starts", "codes")}
        return replace(self, at={n: t.to(device, non_blocking=True) for n, t in self.at.items()}, **moved)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """This process's share of one global batch. All processes hold equally many rows; padding has weight 0.

    ids        feature → [B] int64
    lists      feature → Ragged (kinds `ids` and `text`)
    dense      feature → [B, width] float32
    labels     label → [B] float32
    domain     [B] int64, user_key [B] int64, weight [B] float32 (1, or 0 for padding)
    position   [B] int64, the row's number among the global batch's real rows; -1 for padding
    count      real rows in the global batch;  domains  K;  seed  of this step, the same in every process
    progress   how far the epoch is: 0 at its first step, 1 at its last
    graph      who took what around the rows, if batches bring it;  documents  what is written about them, if they do
    ratings    list feature → [T] float32, of each entry of `rated_<k>` and `raters` the rating, the first label, less
               its item's mean, if batches bring these
    """

    ids: Mapping[str, Tensor]
    lists: Mapping[str, Ragged]
    dense: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    domain: Tensor
    user_key: Tensor
    weight: Tensor
    position: Tensor
    count: int
    domains: int
    seed: int = 0
    progress: float = 1.0
    graph: Graph | None = None
    documents: Documents | None = None
    ratings: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __len__(self) -> int:
        return len(self.domain)

    @property
    def label(self) -> Tensor:
        """The target: the schema's first label, [B] float32."""
        return next(iter(self.labels.values()))

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""

        def move(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in part.items()}

        lists = {name: ragged.to(device) for name, ragged in self.lists.items()}
        rows = move({n: getattr(self, n) for n in ("domain", "user_key", "weight", "position")})
        parts = {name: move(getattr(self, name)) for name in ("ids", "dense", "labels", "ratings")}
        graph, documents = self.graph and self.graph.to(device), self.documents and self.documents.to(device)
        return replace(self, lists=lists, **parts, **rows, graph=graph, documents=documents)

    def mean(self, x: Tensor) -> Tensor:
        """The mean of `x` [B] over the global batch's real rows, as a share: its average over processes is it."""
        return (x * self.weight).sum() * (world_size() / max(self.count, 1))

    def total(self, x: Tensor) -> Tensor:
        """The sum of `x` over all processes, differentiable; `x` itself in one process. Same shape everywhere."""
        return _Total.apply(x) if world_size() > 1 else x

    def domain_mean(self, x: Tensor) -> Tensor:
        """[K] the mean of `x` [B] over each domain's real rows of the global batch, 0 for a domain without rows."""
        zeros = x.new_zeros(self.domains)
        sums = self.total(zeros.index_add(0, self.domain, x * self.weight))
        counts = self.total(zeros.index_add(0, self.domain, self.weight))
        return sums / counts.clamp(min=1.0)

    def sample(self, size: int) -> Tensor:
        """[B] int64: the place in `[0, n)` of each row drawn into a uniform sample of n rows; -1 for the others.

        n is the smaller of `size` and `count`. It is drawn from the global batch and is the same however many processes
        share it.
        """
        size = min(size, self.count)
        generator = torch.Generator().manual_seed(self.seed)
        place = torch.full((self.count + 1,), -1, dtype=torch.int64)
        place[torch.randperm(self.count, generator=generator)[:size]] = torch.arange(size)
        return place.to(self.position.device)[self.position]  # position -1 reads the last entry, which stays -1

    def uniform(self, *shape: int) -> Tensor:
        """[B, *shape] numbers in [0, 1), drawn for the global batch: the same however many processes share it.

        Each call of a step draws the same.
        """
        drawn = torch.rand(self.count + 1, *shape, generator=torch.Generator().manual_seed(self.seed))
        return drawn.to(self.position.device)[self.position]

    def whole(self, x: Tensor) -> Tensor:
        """[count, …] the global batch's rows of `x` [B, …] in order, in every process; differentiable."""
        real = (self.position >= 0).nonzero().squeeze(1)
        mine = x.new_zeros(self.count, *x.shape[1:]).index_copy(0, self.position[real], x.index_select(0, real))
        return self.total(mine)


def world_size() -> int:
    """Processes that share a batch: 1 where no process group is up."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Total(torch.autograd.Function):
    """All-reduce forward and backward.

    The objective is the average over processes of what each computes; every process uses the total, so the gradient
    of a share is the sum of all processes' gradients of the total. Averaging it afterwards makes it exact.
    """

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: object, *grads: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
