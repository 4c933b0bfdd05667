"""What each user of a domain is offered, and which of it they took: the question that full ranking asks.

Candidates are the domain's catalogue, the items of its training split, or with `eval.candidates: all` those of every
domain that is ranked, without those that the user took earlier in these domains: in the training split and, where
another split than it is ranked, in the validation split; in the training split, where a period of it is ranked, in the
periods before. Truths are the candidates that the user took in the ranked
split of the one domain. An item that training did not see is no candidate: in a prepared data set it is the
default row, which stands for many. Such a truth and one taken earlier count as `unrankable`.

Shape letters: B users asked about, U users, n items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdr_dist.batch import Batch
from mdr_dist.config import EvalConfig
from mdr_dist.data.interactions import Interactions, count_items, select
from mdr_dist.data.order import permutation
from mdr_dist.data.profiles import Profiles
from mdr_dist.data.ragged import Ints
from mdr_dist.data.source import Source
from mdr_dist.errors import UserError
from mdr_dist.schema import USER_KEY
from mdr_dist.stage import Slice


@dataclass(frozen=True)
class Asked:
    """Of users [B]: `truths` and `taken`, sorted codes `row * n + place` in the catalogue; `unrankable` [B] counts."""

    truths: Ints
    taken: Ints
    unrankable: Ints


def check_catalogue(source: Source, slice_: Slice, *, domain: int, config: EvalConfig) -> None:
    """Raise what `Candidates` would for a k beyond the catalogue, at less cost."""
    if config.sampled and max(config.ks) > config.sampled:
        raise UserError(
            f"eval.ks: a list of {max(config.ks)} holds all {config.sampled} candidates that eval.sampled draws; "
            f"ask for at most {config.sampled}"
        )
    domains = _offering(source, domain=domain, config=config)
    items = count_items(source.reader, domains, period=slice_.period, enough=max(config.ks))
    _refuse_long(source, domain, items=items, config=config)


def _refuse_long(source: Source, domain: int, *, items: int, config: EvalConfig) -> None:
    if max(config.ks) > items:
        name, path = source.dataset.schema.domains[domain], source.dataset.path
        raise UserError(
            f"eval.ks: {max(config.ks)} exceeds the catalogue of domain {name}, {items} items in the train split of "
            f"data set {path}; ask for at most {items}"
        )


def _offering(source: Source, *, domain: int, config: EvalConfig) -> tuple[int, ...]:
    """The domains whose items the domain's users are offered."""
    if config.candidates == "domain":
        return (domain,)
    schema = source.dataset.schema
    if schema[schema.item].starts:
        raise UserError(
            f"eval.candidates: all needs domains that share item ids; in data set {source.dataset.path} each has ids "
            "of its own"
        )
    return source.domains(Slice())  # of the job, whatever this lane measures


def _earlier(slice_: Slice) -> list[tuple[str, int | None]]:
    """(split, last period) of that whose positives are no candidates."""
    if slice_.split == "train":
        return [("train", slice_.period - 1)] if slice_.period else []
    splits = ("train",) if slice_.split == "val" else ("train", "val")
    return [(split, slice_.period) for split in splits]


class Candidates:
    """A domain's catalogue and the users of a split.

    domain       its number
    items        n, the size of the catalogue
    user_key     keys of all users with a positive in the split, in order
    users        [U] which of them are ranked for
    duplicates   positive rows of the split beyond one a user and item
    """

    def __init__(self, source: Source, slice_: Slice, *, domain: int, config: EvalConfig) -> None:
        self._source, self._slice, self.domain = source, slice_, domain
        self._reader = source.reader
        self.name = source.dataset.schema.domains[domain]
        self._offering = _offering(source, domain=domain, config=config)
        period = slice_.period
        trained = [self._open("train", upto=True, domain=each, period=period) for each in self._offering]
        self._catalogue = np.unique(np.concatenate([each.items for each in trained]))
        self.items = len(self._catalogue)
        _refuse_long(source, domain, items=self.items, config=config)
        earlier = [
            self._open(split, upto=True, domain=each, period=period)
            for split, period in _earlier(slice_)
            for each in self._offering
        ]
        self._earlier = [(taken, self._places(taken)) for taken in earlier]
        self._asked = self._open(slice_.split, upto=False, domain=domain, period=period, default=True)
        self._asked_places = self._places(self._asked)
        self.user_key = self._asked.users
        self.users = np.arange(len(self.user_key))
        if config.known:
            before = np.concatenate([np.zeros(0, np.int64), *(taken.users for taken in earlier)])
            self.users = np.flatnonzero(np.isin(self.user_key, before))
        if 0 < config.users < len(self.users):
            drawn = permutation(len(self.users), "ranked users", self.name, slice_.split)
            self.users = np.sort(self.users[drawn[: config.users]])
        self.duplicates = self._asked.rows - len(self._asked.gaps)

    def ask(self, user_key: Ints) -> Asked:
        """The truths of users [B] and what they took earlier; a key that is no user's has none."""
        parts = [self._codes(interactions, user_key, places=places) for interactions, places in self._earlier]
        taken = np.sort(np.concatenate([np.zeros(0, np.int64), *(code[code >= 0] for _, code in parts)]))
        taken = taken[np.diff(taken, prepend=-1) > 0]
        row, code = self._codes(self._asked, user_key, places=self._asked_places)
        held = np.searchsorted(taken, code, side="right") > np.searchsorted(taken, code)
        rankable = (code >= 0) & ~held
        return Asked(code[rankable], taken, np.bincount(row[~rankable], minlength=len(user_key)))

    def completed(self, batch: Batch) -> Batch:
        """A batch of profiles with what the source adds to every batch."""
        return self._source.completed(batch, self._slice, ranking=True)

    def profiles(self) -> tuple[Profiles, Profiles]:
        """A row for each user of the split, and one for each item of the catalogue."""
        split, period, item = self._slice.split, self._slice.period, self._reader.dataset.schema.item
        asked = select(self._reader, (self.domain,), split=split, period=period, upto=False)
        training = select(self._reader, self._offering, split="train", period=period, upto=True)
        users = Profiles(self._reader, asked, by=USER_KEY, keys=self.user_key, domain=self.domain)
        return users, Profiles(self._reader, training, by=item, keys=self._catalogue, domain=self.domain)

    def _open(self, split: str, *, upto: bool, domain: int, period: int | None, default: bool = False) -> Interactions:
        return Interactions.open(self._reader, domain=domain, split=split, period=period, upto=upto, default=default)

    def _places(self, taken: Interactions) -> Ints:
        """The place in the catalogue of each of its items, -1 for those that are not there."""
        place = np.searchsorted(self._catalogue, taken.items).clip(max=max(self.items - 1, 0))
        return np.where(self._catalogue[place] == taken.items, place, -1)

    def _codes(self, taken: Interactions, user_key: Ints, *, places: Ints) -> tuple[Ints, Ints]:
        """(row, code) of each positive; the code is -1 for an item that is not in the catalogue."""
        row, place = taken.positives(user_key)
        found = places[place]
        return row, np.where(found >= 0, row * self.items + found, -1)
