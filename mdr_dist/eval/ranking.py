"""Full ranking: every user's whole list of candidates, measured exactly, over all processes.

With `eval.sampled` every truth is ranked by itself, against candidates drawn for it (sampled.py).

Users are cut into blocks of a fixed size, dealt out to the processes in turn. Items stream by, in blocks: each process
computes its share of vectors from looked-up rows, all get them, and score them for their users (scores.py). So
memory holds neither the catalogue nor the scores: per process up to HELD blocks of users with their best scores, and
one block of scores. A block's arithmetic is the same in any process, so results do not depend on their number.

Shape letters: R users of a block, N items of a block, D width, K the largest k, T truths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mdr_dist.batch import Batch, world_size
from mdr_dist.config import EvalConfig
from mdr_dist.data.order import seed_of
from mdr_dist.data.profiles import Profiles
from mdr_dist.data.ragged import Ints
from mdr_dist.data.source import Source
from mdr_dist.eval.candidates import Asked, Candidates
from mdr_dist.eval.figures import UserFigures, summary
from mdr_dist.eval.sampled import names_of, sampled_standing
from mdr_dist.eval.scores import Scores
from mdr_dist.eval.ties import Floats, expected
from mdr_dist.eval.top import CHUNK, TopScores
from mdr_dist.methods.base import Method
from mdr_dist.stage import Rows, Slice

Lookup = Callable[[Batch], Mapping[str, Tensor]]
Vector = Callable[[Rows, Batch], Tensor]
USERS, ITEMS = 512, 4096  # of a block at most; its scores, 8 MiB, stay near the processor
SPREAD, HELD = 32, 128  # blocks of users at least, for the processes to share, and those that one holds at a time


def rank(
    method: Method, lookup: Lookup, *, source: Source, slice_: Slice, config: EvalConfig, device: torch.device
) -> dict[str, Any]:
    """Metrics of a slice: `{"<domain>": {...}, "macro": {...}}`, the same in every process.

    A domain has `recall@k precision@k ndcg@k hit@k mrr@k` for every k, each also as `random/<name>`: what a random
    order of the same candidates is expected to reach. `users` counts those measured, `skipped` those without a truth
    to find, `items` the catalogue, `truths` what there was to find, `unrankable` what could not be found (see
    candidates.py), `duplicates` repeated rows of the split. `macro` is the mean over domains. Errors as in
    `rank_users`.
    """
    return means(rank_users(method, lookup, source=source, slice_=slice_, config=config, device=device), config)


def means(figures: Mapping[str, UserFigures], config: EvalConfig) -> dict[str, Any]:
    """What `rank` gives, in every process, of what `rank_users` found for process 0."""
    result = [summary(figures, config.ks)]
    if world_size() > 1:
        dist.broadcast_object_list(result)
    return result[0]


@torch.no_grad()
def rank_users(
    method: Method, lookup: Lookup, *, source: Source, slice_: Slice, config: EvalConfig, device: torch.device
) -> dict[str, UserFigures]:
    """Metrics of each user by domain, in process 0; the other processes get nothing. All call it alike.

    `UserError` for a k beyond a domain's catalogue; `FloatingPointError` for scores that are not finite.
    """
    training = method.training
    method.eval()
    domains = [Candidates(source, slice_, domain=k, config=config) for k in source.domains(slice_)]
    figures: dict[str, UserFigures] = {}
    for candidates in domains:
        ranker = _Ranker(method, lookup, candidates, config=config, device=device)
        parts = _gathered(list(ranker.figures()))
        if parts:
            figures[candidates.name] = UserFigures.merge(parts)
    method.train(training)
    return figures


class _Ranker:
    """One domain's users against its catalogue."""

    def __init__(
        self, method: Method, lookup: Lookup, candidates: Candidates, *, config: EvalConfig, device: torch.device
    ) -> None:
        self._scores = Scores(method, candidates.domain, device=device)
        self._method, self._lookup, self._candidates, self._device = method, lookup, candidates, device
        self._config = config
        self._rank, self._world = dist.get_rank() if world_size() > 1 else 0, world_size()
        # functions of the data alone, so that every number of processes does the same
        self._shape = (
            _block_size(len(candidates.users), largest=USERS, least=SPREAD, multiple=8),
            _block_size(candidates.items, largest=ITEMS, least=1, multiple=CHUNK),
        )
        names = {name for spec in method.tables() for name in spec.features}
        self._negatives = tuple(sorted(name for name in names if name.startswith("negative_")))

    def figures(self) -> Iterator[UserFigures]:
        """What this process's users reach, HELD blocks of them at a time."""
        n, none = self._candidates.items, np.zeros(0, dtype=np.int64)
        whole = torch.cat(list(self._item_blocks())) if self._config.sampled and len(self._candidates.users) else None
        for key, asked, vectors in self._users():
            if whole is not None:
                yield self._sampled(key, asked, torch.cat(vectors), whole=whole)
                continue
            standing = none, none
            if vectors:
                top, ties, scores = self._stream(vectors, asked)
                standing = _standing(scores, asked.truths // n, top, ties)
            yield _measured(key, asked, *standing, ks=self._config.ks, candidates=self._candidates)

    def _sampled(self, key: Ints, asked: Asked, vectors: Tensor, *, whole: Tensor) -> UserFigures:
        """As `figures`, every truth by itself in the place of a user."""
        n, count = self._candidates.items, self._config.sampled
        name, seed = names_of(asked, key, items=n), seed_of("sampled", self._candidates.name)
        standing = sampled_standing(
            asked, vectors, items_ND=whole, items=n, name=name, count=count, seed=seed, scores=self._scores.among
        )
        self._scores.check_scores()
        apart = Asked(np.arange(len(name)) * n, asked.truths[:0], asked.unrankable)
        found = _measured(name, apart, *standing, ks=self._config.ks, candidates=self._candidates)
        skipped = int((key >= 0).sum()) - len(np.unique(asked.truths // n))
        return replace(found, candidates=np.full(len(name), 1 + count), skipped=skipped)

    def _users(self) -> Iterator[tuple[Ints, Asked, list[Tensor]]]:
        """Of this process's users, HELD blocks at a time: keys, -1 beyond the last user; what is asked; vectors."""
        size, users = self._shape[0], self._candidates.users
        rounds = -(-len(users) // (size * self._world))
        if not rounds:
            none = np.zeros(0, dtype=np.int64)
            yield none, self._candidates.ask(none), []
        for first in range(0, rounds, HELD):
            vectors: list[Tensor] = []
            keys: list[Ints] = []
            for turn in range(first, min(first + HELD, rounds)):
                mine, vector = self._vectors(self._method.user_vector, self._rows[0], users, turn=turn, size=size)
                vectors.append(vector)
                keys.append(np.full(size, -1, dtype=np.int64))
                keys[-1][: len(mine)] = self._candidates.user_key[mine]
            self._scores.check_vectors(vectors, "user_vector")
            yield np.concatenate(keys), self._candidates.ask(np.concatenate(keys)), vectors

    @cached_property
    def _rows(self) -> tuple[Profiles, Profiles]:
        return self._candidates.profiles()

    def _stream(self, vectors: list[Tensor], asked: Asked) -> tuple[Floats, Ints, Floats]:
        """Best scores [blocks * R, K] of these users, ties at the last of them, and the truths' scores [T]."""
        n, blocks = self._candidates.items, len(vectors)
        truths = _Cells(asked.truths, n, shape=self._shape, blocks=blocks, device=self._device)
        taken = _Cells(asked.taken, n, shape=self._shape, blocks=blocks, device=self._device)
        best = [TopScores(self._shape[0], max(self._config.ks), device=self._device) for _ in vectors]
        found = torch.empty(len(asked.truths), device=self._device)
        scores = torch.empty(self._shape, device=self._device)
        for number, item_vectors in enumerate(self._item_blocks()):
            for block, user_vectors in enumerate(vectors):
                self._scores.block(user_vectors, item_vectors, out=scores)
                scores[:, n - number * self._shape[1] :] = -torch.inf  # what pads the last block of items
                scores.view(-1)[taken.within(number, block)] = -torch.inf
                found[truths.numbers(number, block)] = scores.view(-1)[truths.within(number, block)]
                best[block].add(scores)
        self._scores.check_scores()
        top, ties = (torch.cat(parts).cpu().numpy() for parts in zip(*(b.result() for b in best), strict=True))
        return top, ties, found.cpu().numpy()

    def _item_blocks(self) -> Iterator[Tensor]:
        """Every block's vectors [N, D] in turn, in every process."""
        size, items = self._shape[1], np.arange(self._candidates.items)
        blocks = -(-len(items) // size)
        for turn in range(-(-blocks // self._world)):
            _, vector = self._vectors(self._method.item_vector, self._rows[1], items, turn=turn, size=size)
            parts = [vector]
            if self._world > 1:
                parts = [torch.empty_like(vector) for _ in range(self._world)]
                dist.all_gather(parts, vector)
            self._scores.check_vectors(parts, "item_vector")
            yield from parts[: blocks - turn * self._world]

    def _vectors(self, vector: Vector, rows: Profiles, numbers: Ints, *, turn: int, size: int) -> tuple[Ints, Tensor]:
        """This process's block of a turn: its part of `numbers`, and their vectors [size, D], padded by another's."""
        start = turn * self._world * size
        first = self._rank * size
        mine = numbers[start + first : start + first + size]
        count = min(len(numbers) - start, self._world * size)
        batch = rows.batch(mine, size=size, first=first, count=count, also=self._negatives)
        batch = self._candidates.completed(batch).to(self._device)
        found = vector(self._lookup(batch), batch)
        if found.shape[:1] != (size,) or found.dim() != 2:
            raise ValueError(f"{vector.__qualname__}: [B, D] with B {size} is needed, got {tuple(found.shape)}")
        return mine, found.float().contiguous()


class _Cells:
    """Codes `row * n + place`, by the block of scores that they lie in: `blocks` of users for each of items."""

    def __init__(self, codes: Ints, n: int, *, shape: tuple[int, int], blocks: int, device: torch.device) -> None:
        row, place = np.divmod(codes, n)
        block = place // shape[1] * blocks + row // shape[0]
        order = np.argsort(block, kind="stable")
        cell = row % shape[0] * shape[1] + place % shape[1]
        self._starts = np.searchsorted(block[order], np.arange(-(-n // shape[1]) * blocks + 1)).tolist()
        self._blocks = blocks
        self._order, self._cell = (torch.from_numpy(part).to(device) for part in (order, cell[order]))

    def within(self, items: int, users: int) -> Tensor:
        """The places in the flattened block of scores of those that lie there."""
        return self._cell[self._slice(items, users)]

    def numbers(self, items: int, users: int) -> Tensor:
        """Which of the codes these are."""
        return self._order[self._slice(items, users)]

    def _slice(self, items: int, users: int) -> slice:
        block = items * self._blocks + users
        return slice(self._starts[block], self._starts[block + 1])


def _standing(scores: Floats, owner: Ints, top: Floats, ties: Ints) -> tuple[Ints, Ints]:
    """`above` and `tied` [T], as `ties.expected` wants them, of truths with these scores; exact down to place K.

    A truth that scores below its user's K-th best stands beyond place K, wherever that is.
    """
    above, tied = np.full(len(scores), top.shape[1]), np.ones(len(scores), dtype=np.int64)
    near = np.flatnonzero(scores >= top[owner, -1])
    user, score = owner[near], scores[near]
    above[near] = (top[user] > score[:, None]).sum(1)
    tied[near] = np.where(score > top[user, -1], (top[user] == score[:, None]).sum(1), ties[user])
    return above, tied


def _measured(
    key: Ints, asked: Asked, above: Ints, tied: Ints, *, ks: tuple[int, ...], candidates: Candidates
) -> UserFigures:
    """The users among `key` that have truths; -1 is no user."""
    n = candidates.items
    users, owner, truths = np.unique(asked.truths // n, return_inverse=True, return_counts=True)
    taken = np.bincount(asked.taken // n, minlength=len(key))
    return UserFigures(
        user_key=key[users],
        truths=truths,
        candidates=n - taken[users],
        metrics=expected(above, tied, owner=owner, ks=ks),
        skipped=int((key >= 0).sum()) - len(users),
        unrankable=int(asked.unrankable.sum()),
        items=n,
        duplicates=candidates.duplicates,
    )


def _gathered(mine: list[UserFigures]) -> list[UserFigures]:
    """All processes' parts, in process 0."""
    if world_size() == 1:
        return mine
    every: list[Any] = [None] * world_size() if dist.get_rank() == 0 else []
    dist.gather_object(mine, every if dist.get_rank() == 0 else None)
    return [part for parts in every for part in parts]


def _block_size(count: int, *, largest: int, least: int, multiple: int) -> int:
    """The size of equal blocks, `least` of them where `count` suffices, none over `largest`, but for `multiple`."""
    blocks = max(least, -(-count // largest), 1)
    return max(1, -(-count // (blocks * multiple))) * multiple
