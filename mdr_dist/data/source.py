"""Batches of a data set: what one worker reads, in an order that does not depend on how many workers there are.

Shape letters: B rows of this process, V streams.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from mdr_dist.batch import Batch, Extras
from mdr_dist.config import DataConfig
from mdr_dist.data.collate import Pick, collate
from mdr_dist.data.columns import Columns
from mdr_dist.data.common import Common
from mdr_dist.data.documents import check_documents
from mdr_dist.data.extras import Adding, adding
from mdr_dist.data.layout import Group
from mdr_dist.data.negatives import Negatives, check_items, uniforms
from mdr_dist.data.opened import Opened
from mdr_dist.data.order import Order, Plan, count_streams, dealt, seed_of, stratified
from mdr_dist.data.prefetch import prefetch
from mdr_dist.data.ragged import Array, Ints
from mdr_dist.data.reader import Dataset, Reader
from mdr_dist.data.reservoir import Reservoir
from mdr_dist.data.users import Users
from mdr_dist.errors import UserError
from mdr_dist.stage import Slice

__all__ = ["Dataset", "Source"]

_NONE = Extras()
_LOOK = 16  # steps; how often it is looked for row groups that will be needed, and how far apart


class Source:
    """One worker's reader of a data set; `rank` of `world` workers that each read their own streams.

    All workers get equally many batches of equally many rows. Decoded row groups stay in memory from epoch to epoch
    up to `data.cache_mb`, besides the one row group that each stream stands in (one of each domain where domains
    take turns). `extras` says what batches bring beside the data set's features.
    """

    def __init__(
        self, dataset: Dataset, data: DataConfig, *, seed: int, rank: int = 0, world: int = 1, extras: Extras = _NONE
    ) -> None:
        self._extras = extras
        self.dataset, self._data, self._seed, self._rank, self._world = dataset, data, seed, rank, world
        self._domains = tuple(map(dataset.schema.domain_index, data.domains)) or None
        self._streams = count_streams(data.batch, data.streams)
        if world > self._streams:
            raise UserError(
                f"data.streams: {self._streams} streams cannot feed {world} workers; "
                f"set it to a divisor of data.batch {data.batch} that is at least {world}"
            )
        self._slots, self._share = -(-self._streams // world), data.batch // self._streams
        self.reader = Reader(dataset, max_bytes=data.cache_mb << 20)
        self._negatives: dict[tuple[int, int | None, str], Negatives] = {}
        self._reservoirs: dict[Slice, Reservoir] = {}
        self._commons: dict[Slice, Common] = {}
        self._users: dict[tuple[str, int | None, tuple[int, ...] | None], Users] = {}
        self._adding: dict[tuple[Slice, bool], tuple[Adding, ...]] = {}

    @property
    def _read_domains(self) -> tuple[int, ...]:
        """The job's domains."""
        return self._domains or tuple(range(len(self.dataset.schema.domains)))

    def rows(self, slice: Slice) -> int:
        """Rows of the slice over all workers; a `UserError` if there are none."""
        return sum(group.rows for group in self._select(slice, strict=False))

    def domains(self, slice: Slice) -> tuple[int, ...]:
        """The slice's domains that have rows, in order; errors as in `rows`."""
        return tuple(sorted({group.domain for group in self._select(slice, strict=False)}))

    def steps(self, slice: Slice) -> int:
        """Batches of a training epoch; a `UserError` if the slice cannot be trained on."""
        return self._plan(slice, "", 0).steps

    def check(self, slice: Slice) -> None:
        """Raise `UserError` if the slice cannot be trained on, as `steps` does, or lacks negatives or documents."""
        self.steps(slice)
        if self._extras.documents:
            check_documents(self.reader, self._extras, domains=self._read_domains)
        for domain in self.domains(slice) if slice.negatives else ():
            check_items(self.reader, domain=domain, period=slice.period, upto=slice.pool == "past")

    def check_in_common(self) -> None:
        """Raise `UserError` unless there are two domains at least, each with two users in common with the others."""
        schema, path = self.dataset.schema, self.dataset.path
        domains = self._read_domains
        if len(domains) < 2:
            raise UserError(
                f"data set {path}: domain {schema.domains[min(domains)]} alone has nothing to transfer from; "
                "set data.domains to two domains at least"
            )
        users = self.users("train").in_common
        if few := [domain for domain in domains if users[domain] < 2]:
            count = ("no user", "one user alone")[users[few[0]]]
            raise UserError(
                f"domain {schema.domains[few[0]]} has {count} in common with the other domains in the train split of "
                f"data set {path}; transfer needs two at least: set data.domains to other domains"
            )

    def batches(self, slice: Slice, *, stage: str, epoch: int, start: int = 0) -> Iterator[Batch]:
        """An epoch in training order from batch `start` on: every row once, shuffled by (seed, stage, epoch).

        The last batch of each stream is padded; so fewer rows than a batch holds are one batch, the rest padding.
        `start` costs what the first batch costs: nothing before it is read. A wrong slice raises at once; what is
        wrong with a shard raises at the batch that needs it.
        """
        plan, key = self._plan(slice, stage, epoch), ("epoch", self._seed, stage, epoch)
        self._open_extras(slice)
        return prefetch(self._read(plan, slice, key=key, start=start, shuffle=True), self._data.prefetch)

    def sweep(self, slice: Slice) -> Iterator[Batch]:
        """Every row of the slice once, in on-disk order, each worker over its own stretch; for evaluation.

        Batches have the shape that `batches` gives them. Domains are read one after the other whatever `slice.mix` is,
        and a slice that names none covers those that have rows.
        """
        groups = self._select(slice, strict=False)
        order = Order(_numbers(groups), _sizes(groups), streams=self._world, share=self._slots * self._share)
        self._open_extras(slice)
        items = self._read(Plan((order,)), slice, key=("sweep", self._seed), start=0, shuffle=False)
        return prefetch(items, self._data.prefetch)

    def _select(self, slice: Slice, *, strict: bool) -> tuple[Group, ...]:
        """The slice's row groups; every domain must have rows if domains are named, or if `strict`.

        But what `data.domains` names need not all be held out: users may be cold in one domain only.
        """
        schema, where = self.dataset.schema, f"split {slice.split} of data set {self.dataset.path}"
        where += "" if slice.period is None else f", period {slice.period}"
        where += ", among users in common" if slice.users == "common" else ""
        if slice.unit == "user":
            if not (users := self._users_of(slice).groups()):
                raise UserError(f"no user has a positive row in {where}; data.domains says which domains are read")
            return users
        domains = self._domains if slice.domains is None else slice.domains
        named = slice.domains is not None or (domains is not None and slice.split == "train")
        domains = domains or tuple(range(len(schema.domains)))
        if beyond := [k for k in domains if not 0 <= k < len(schema.domains)]:
            raise UserError(f"there is no domain number {beyond[0]} in data set {self.dataset.path}")
        groups = self.dataset.select(slice.split, domains=domains, period=slice.period, upto=slice.upto)
        if slice.users == "common":
            groups = self._common(slice, groups).groups(groups)
        missing = set(domains) - {group.domain for group in groups}
        if missing and (named or (strict and slice.period is None) or not groups):
            name = schema.domains[min(missing)]
            raise UserError(f"domain {name} has no rows in {where}; data.domains says which domains are read")
        return groups + (self._reservoir(slice, domains).groups() if slice.reservoir else ())

    def _reservoir(self, slice: Slice, domains: tuple[int, ...]) -> Reservoir:
        """The sample of the periods before the slice's own that it reads too."""
        last = (slice.period or 0) - 1
        if slice not in self._reservoirs:
            groups = self.dataset.select(slice.split, domains=domains, period=last, upto=True)
            self._reservoirs[slice] = Reservoir.open(self.reader, groups, size=slice.reservoir)
        return self._reservoirs[slice]

    def _common(self, slice: Slice, groups: tuple[Group, ...]) -> Common:
        """The rows of users who are active in training in several of the job's domains."""
        if slice not in self._commons:
            users = self.users("train", slice.period)
            self._commons[slice] = Common.open(self.reader, groups, users=users, period=slice.period)
        return self._commons[slice]

    def _users_of(self, slice: Slice) -> Users:
        """The users that are the rows of a slice by user."""
        users = self.users(slice.split, slice.period, domains=slice.domains)
        return users.among(self.users("train", slice.period)) if slice.users == "common" else users

    def _plan(self, slice: Slice, stage: str, epoch: int) -> Plan:
        groups = self._select(slice, strict=True)
        parts = [groups]
        if slice.mix == "alternate":
            parts = [tuple(g for g in groups if g.domain == k) for k in sorted({g.domain for g in groups})]
        orders: list[Order] = []
        for part in parts:
            sizes, domains = _sizes(part), np.array([group.domain for group in part])
            placed = stratified(sizes, domains, self._seed, stage, epoch)
            placed = placed[dealt(sizes[placed], self._streams)]
            first = sum(order.rows for order in orders)
            orders.append(Order(_numbers(part)[placed], sizes[placed], self._streams, self._share, first))
        return Plan(tuple(orders))

    def users(self, split: str, period: int | None = None, *, domains: tuple[int, ...] | None = None) -> Users:
        """The users of a split and where they are active, among these domains; `None`: all that are read."""
        domains = domains or self._domains
        if (split, period, domains) not in self._users:
            self._users[split, period, domains] = Users.open(self.reader, split=split, period=period, domains=domains)
        return self._users[split, period, domains]

    def _open_extras(self, slice: Slice) -> None:
        """Make what the slice adds to rows, here and not in the thread that reads ahead."""
        self._added(slice)
        for domain in {group.domain for group in self._select(slice, strict=False)} if slice.negatives else ():
            if (key := (domain, slice.period, slice.pool)) not in self._negatives:
                upto = slice.pool == "past"
                found = Negatives.of_training(self.reader, domain=domain, period=slice.period, upto=upto)
                self._negatives[key] = found

    def _read(
        self, plan: Plan, slice: Slice, *, key: tuple[str | int, ...], start: int, shuffle: bool
    ) -> Generator[Batch, None, None]:
        opened = Opened(self._columns(slice, keep=shuffle), linger=len(plan.orders), key=key if shuffle else None)
        ahead = self.reader.is_remote and slice.unit == "row" and slice.users == "all"
        for step in range(start, plan.steps):
            if ahead and (step - start) % _LOOK == 0:
                soon = opened.lacks(self._groups_at(plan, range(step, min(step + 3 * _LOOK, plan.steps), _LOOK)))
                self.reader.begin(self.dataset.groups[number] for number in soon if number >= 0)
            order, number = plan.turn(step)
            batch, place = self._batch(order, number, opened=opened, seed=seed_of(*key, step))
            batch = replace(batch, progress=step / (plan.steps - 1) if plan.steps > 1 else 1.0)
            batch = self._with_negatives(batch, place, slice=slice, seed=seed_of("negatives", *key))
            # a sweep's steps are other rows with other workers: what it draws must not depend on the step
            yield self.completed(batch, slice, seed=batch.seed if shuffle else seed_of(*key))
            opened.close_unused()

    def _groups_at(self, plan: Plan, steps: Iterable[int]) -> Iterator[int]:
        """The row groups in which this worker's streams stand at some steps."""
        for order, number in map(plan.turn, steps):
            for stream in range(self._rank, order.streams, self._world):
                yield from (piece.group for piece in order.pieces(number, stream))

    def _batch(self, order: Order, number: int, *, opened: Opened, seed: int) -> tuple[Batch, Array]:
        """This worker's part of a batch: its streams one after the other, each padded to its share.

        With it [B] the rows' places in the epoch, -1 for padding.
        """
        counts = order.counts(number)
        before = np.cumsum(counts) - counts
        mine = range(self._rank, order.streams, self._world)
        position, place = np.full((2, self._slots * self._share), -1, dtype=np.int64)
        picks: list[Pick] = []
        for at, stream in zip(range(0, len(position), order.share), mine, strict=False):
            real = np.arange(counts[stream])
            position[at : at + len(real)] = before[stream] + real
            place[at : at + len(real)] = order.first + order.start(number, stream) + real
            for piece in order.pieces(number, stream):
                columns, rows = opened.get(piece.group)
                picks.append(Pick(columns, rows[piece.start : piece.stop], at))
                at += piece.stop - piece.start  # noqa: PLW2901 the stream's next rows follow
        count = int(counts.sum())
        return collate(self.reader.layout, picks, position=position, count=count, seed=seed), place

    def _columns(self, slice: Slice, *, keep: bool) -> Callable[[int], Columns]:
        """How a group's rows come by its number."""
        if slice.unit == "user":
            return partial(self._users_of(slice).columns, self.reader.layout)
        if slice.users == "common":
            return partial(self._commons[slice].columns, keep=keep)
        drawn = self._reservoirs.get(slice)

        def columns(number: int) -> Columns:
            if drawn and number < 0:
                return drawn.columns(number)
            return self.reader.columns(self.dataset.groups[number], keep=keep)

        return columns

    def completed(self, batch: Batch, slice: Slice, *, seed: int = 0, ranking: bool = False) -> Batch:
        """The batch with the extras; `ranking`: of profiles that are ranked, rather than rows of the slice."""
        for add in self._added(slice, ranking=ranking):
            batch = add(batch, seed)
        return batch

    def _added(self, slice: Slice, *, ranking: bool = False) -> tuple[Adding, ...]:
        if (slice, ranking) not in self._adding:
            made = adding(self.reader, self._extras, slice_=slice, domains=self._read_domains, ranking=ranking)
            self._adding[slice, ranking] = made
        return self._adding[slice, ranking]

    def _with_negatives(self, batch: Batch, place: Array, *, slice: Slice, seed: int) -> Batch:
        if slice.negatives == 0:
            return batch
        domain, item = batch.domain.numpy(), batch.ids[self.dataset.schema.item].numpy()
        user_key, drawn = batch.user_key.numpy(), np.zeros((slice.negatives, len(batch)), dtype=np.int64)
        for k in np.unique(domain[place >= 0]):
            rows = np.flatnonzero((domain == k) & (place >= 0))
            negatives = self._negatives[int(k), slice.period, slice.pool]
            uniform = uniforms(place[rows], slice.negatives, seed)
            drawn[:, rows] = negatives.draw(user_key[rows], item[rows], uniform)
        named = {f"negative_{at}": torch.from_numpy(ids) for at, ids in enumerate(drawn)}
        return replace(batch, ids={**batch.ids, **named})


def _numbers(groups: tuple[Group, ...]) -> Ints:
    return np.array([group.number for group in groups], dtype=np.int64)


def _sizes(groups: tuple[Group, ...]) -> Ints:
    return np.array([group.rows for group in groups], dtype=np.int64)
