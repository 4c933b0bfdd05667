"""How a method scores one domain's items for users, and that its scores are numbers.

By inner product where that ranks; else the method says (`Method.pair_scores`).

Shape letters: R users, N items, T truths, D width.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from mdr_dist.batch import world_size
from mdr_dist.methods.base import Method

LONGEST = 1e18  # a vector; the product of two is far from float32's end


class Scores:
    """One domain's scores. All processes check alike, and all raise if one of them has what is no number."""

    def __init__(self, method: Method, domain: int, *, device: torch.device) -> None:
        self._method, self._domain, self._inner = method, domain, method.inner_product
        self._largest = torch.zeros((), device=device)  # size of what the method scored

    def block(self, user_RD: Tensor, item_ND: Tensor, *, out: Tensor) -> None:
        """Every user's score of every item, into `out` [R, N]."""
        if self._inner:
            torch.mm(user_RD, item_ND.T, out=out)
        else:
            out.copy_(self._by_method(user_RD, item_ND))

    def among(self, user_TD: Tensor, item_TND: Tensor) -> Tensor:
        """[T, N] each user's scores of items of its own; `item_TND` may be written over."""
        if self._inner:
            return inner_products(user_TD, item_TND)
        return self._by_method(user_TD[:, None], item_TND).squeeze(1)

    def check_vectors(self, vectors: list[Tensor], what: str) -> None:
        """`FloatingPointError` unless vectors are so long at most that no inner product can overflow."""
        if self._inner:
            longest = torch.stack([vector.norm(dim=1).max() for vector in vectors]).max()
            self._refuse(longest, what, below=LONGEST, told="a vector has the length {}; scores need finite vectors")

    def check_scores(self) -> None:
        """`FloatingPointError` unless all that the method scored is finite."""
        if not self._inner:
            told = "a score has the size {}, by which nothing ranks"
            self._refuse(self._largest, "pair_scores", below=torch.inf, told=told)

    def _by_method(self, users: Tensor, items: Tensor) -> Tensor:
        """[…, R, N] as `Method.pair_scores`."""
        scores = self._method.pair_scores(users, items, domain=self._domain).float()
        shape = (*items.shape[:-2], users.shape[-2], items.shape[-2])
        if scores.shape != shape:
            name = type(self._method).__name__
            raise ValueError(f"{name}.pair_scores: {list(shape)} is needed, got {list(scores.shape)}")
        self._largest = torch.maximum(self._largest, scores.abs().amax())  # a NaN stays
        return scores

    def _refuse(self, largest: Tensor, what: str, *, below: float, told: str) -> None:
        """Raise in every process unless in all the largest is `below`; NaN is not."""
        if world_size() > 1:
            every = [torch.empty_like(largest) for _ in range(world_size())]
            dist.all_gather(every, largest)
            largest = torch.stack(every).max()
        if not float(largest) < below:
            place = f"{type(self._method).__name__}.{what}, domain {self._method.schema.domains[self._domain]}"
            raise FloatingPointError(f"{place}: {told.format(float(largest))}")


def inner_products(user_TD: Tensor, item_TND: Tensor) -> Tensor:
    """[T, N] of each user's vector with its items', which are written over.

    No matrix product: its order of summation may change with the shape and the place, which would part equals.
    """
    return item_TND.mul_(user_TD[:, None]).sum(2)
