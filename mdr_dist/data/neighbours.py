"""Who took what as a graph of users and items, and the part of it that lies around a batch's rows.

A node is told by a code: an item by its id, a user by `item ids + 1 + user_key`, for padding's key is -1. Which
neighbours of a node a step draws follows from the step and the node alone: every process that meets it has the same.

Shape letters: B rows, N nodes, E neighbours, U users, n items, M positives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from mdr_dist.batch import Batch, Extras, Graph, Ragged
from mdr_dist.data.interactions import Interactions
from mdr_dist.data.mapped import Arrays, check_free, mapped
from mdr_dist.data.negatives import uniforms
from mdr_dist.data.order import seed_of
from mdr_dist.data.ragged import Ints, located, nth, starts_of
from mdr_dist.data.reader import Reader
from mdr_dist.data.users import Users

_CHUNK = 1 << 22  # positives worked on at a time


@dataclass(frozen=True)
class Neighbours:
    """The users that took each item, beside what users took.

    user, item: the features' names; first_user the code of the key -1; ids [U] the users' ids as a feature;
    starts [n+1] where each item's users begin; takers [M] the users' numbers, in order.
    """

    user: str
    item: str
    first_user: int
    taken: Interactions
    ids: Ints
    starts: Ints
    takers: Ints

    @classmethod
    def open(cls, reader: Reader, *, domains: tuple[int, ...], period: int | None) -> Neighbours:
        """The graph of the domains' training split, up to a period if one is given."""
        schema = reader.dataset.schema
        taken = Interactions.together(reader, domains, period=period, upto=True)
        users = Users.open(reader, split="train", period=period, domains=domains)
        found = mapped(reader, "neighbours", key=(domains, period), build=partial(_build, taken, users))
        ids, starts, takers = (np.asarray(found[name]) for name in ("ids", "starts", "takers"))
        return cls(schema.user, schema.item, schema[schema.item].rows, taken, ids, starts, takers[: starts[-1]])

    def around(self, batch: Batch, extras: Extras, *, seed: int) -> Batch:
        """The batch with `user_nodes`, `item_nodes` and `graph`, of neighbours drawn by the seed."""
        keys = batch.user_key.numpy()
        items = [name for name in batch.ids if name == self.item or name.startswith("negative_")]
        rows = {self.user: self._code(keys), **{name: batch.ids[name].numpy() for name in items}}
        hops, near = [np.unique(np.concatenate(list(rows.values())))], list[tuple[Ints, Ints]]()
        for _ in range(extras.hops):
            near.append(self.drawn(hops[-1], most=extras.neighbours, seed=seed))
            hops.append(np.setdiff1d(near[-1][0], np.concatenate(hops)))
        graph = _graph(rows, hops, near, first_user=self.first_user)
        later, codes = np.concatenate(hops[1:]), graph.codes.numpy()
        # the rows' own users, who stand first and in the order of their keys, need not be in training
        _, own = np.unique(keys, return_index=True)
        number = np.searchsorted(self.taken.users, self._key(later[later >= self.first_user]))
        users = np.concatenate([batch.ids[self.user].numpy()[own], self.ids[number]])
        nodes = {"user_nodes": users, "item_nodes": codes[codes < self.first_user]}
        lists = {name: of_none(ids, len(batch)) for name, ids in nodes.items()}
        return replace(batch, lists={**batch.lists, **lists}, graph=graph)

    def drawn(self, codes: Ints, *, most: int, seed: int) -> tuple[Ints, Ints]:
        """Neighbours of the nodes [N] in order, node by node, `most` of each (0: all); and how many each one has.

        Codes come in order, and so does each node's part.
        """
        split = int(np.searchsorted(codes, self.first_user))
        item, item_degree = located(codes[:split], self.taken.items, starts=self.starts)
        user, user_degree = located(self._key(codes[split:]), self.taken.users, starts=self.taken.starts)
        degree = np.concatenate([item_degree, user_degree])
        node, number = _chosen(degree, codes, most=most, seed=seed_of("neighbours", seed))
        first = int(np.searchsorted(node, split))  # from here on they are users' neighbours
        takers = self.takers[self.starts[item[node[:first]]] + number[:first]]
        items = self.taken.items[self.taken.places(user[node[first:] - split], number[first:])]
        found = np.concatenate([self._code(self.taken.users[takers]), items])
        return found, np.bincount(node, minlength=len(codes))

    def _code(self, keys: Ints) -> Ints:
        return keys + (self.first_user + 1)

    def _key(self, codes: Ints) -> Ints:
        return codes - (self.first_user + 1)


def of_none(values: Ints, size: int) -> Ragged:
    """A list feature of a batch of this size whose entries are of no row; they count as the first one's."""
    lengths = torch.zeros(size, dtype=torch.int64)
    lengths[0] = len(values)
    return Ragged(torch.from_numpy(values), lengths)


def _graph(rows: dict[str, Ints], hops: list[Ints], near: list[tuple[Ints, Ints]], *, first_user: int) -> Graph:
    """The graph of these nodes, hop by hop, and the neighbours of all but the last hop's."""
    codes = np.concatenate(hops)
    by_code = np.argsort(codes)

    def place(wanted: Ints) -> torch.Tensor:
        return torch.from_numpy(by_code[np.searchsorted(codes, wanted, sorter=by_code)])

    is_user = codes >= first_user
    order = np.where(is_user, np.cumsum(is_user), is_user.sum() + np.cumsum(~is_user)) - 1
    counts = np.concatenate([count for _, count in near])
    return Graph(
        order=torch.from_numpy(order),
        sources=place(np.concatenate([found for found, _ in near])),
        starts=torch.from_numpy(starts_of(counts)),
        codes=torch.from_numpy(codes),
        at={name: place(own) for name, own in rows.items()},
        nodes=tuple(np.cumsum([len(hop) for hop in hops]).tolist()),
        edges=tuple(np.cumsum([len(found) for found, _ in near]).tolist()),
    )


def _chosen(degree: Ints, codes: Ints, *, most: int, seed: int) -> tuple[Ints, Ints]:
    """(node, nth) of the neighbours [E] that nodes of these degrees [N] have drawn, without replacement; in order."""
    count = np.minimum(degree, most) if most else degree
    node = np.repeat(np.arange(len(degree)), count)
    number = nth(count)
    if (many := count < degree).any():
        number[many[node]] = _subsets(degree[many], uniforms(codes[many], most, seed)).T.ravel()
    return node, number


def _subsets(size: Ints, uniform: NDArray[np.float64]) -> Ints:
    """[F, N] F distinct numbers below each size, any as likely as another, in order (Floyd's algorithm).

    `uniform` [F, N] are numbers in [0, 1); sizes exceed F.
    """
    drawn = np.empty(uniform.shape, dtype=np.int64)
    for at, part in enumerate(uniform):
        last = size - len(uniform) + at
        number = (part * (last + 1)).astype(np.int64)
        drawn[at] = np.where((drawn[:at] == number).any(0), last, number)
    return np.sort(drawn, axis=0)


def _build(taken: Interactions, users: Users, folder: str) -> Arrays:
    """The arrays; takers are sorted in a mapped file, not on the heap."""
    size, count = len(taken.gaps), len(taken.users)
    check_free(folder, size * np.dtype(np.int64).itemsize, what="a data set's interactions by item")
    takers = np.lib.format.open_memmap(f"{folder}/takers.npy", mode="w+", dtype=np.int64, shape=(size,))
    for at in range(0, size, _CHUNK):
        entry = np.arange(at, min(at + _CHUNK, size))
        user = np.searchsorted(taken.starts, entry, side="right") - 1
        takers[entry[0] : entry[-1] + 1] = taken.places(user, entry - taken.starts[user]) * count + user
    takers.sort()
    starts = np.searchsorted(takers, np.arange(len(taken.items) + 1) * count)
    for at in range(0, size, _CHUNK):
        takers[at : at + _CHUNK] %= count
    takers.flush()
    return {"ids": users.ids[np.searchsorted(users.keys, taken.users)], "starts": starts}
