"""Documents put together from reviews: what users wrote, what is written about items, and what others wrote alike.

A document are its owner's reviews one after the other, in the order in which the data set holds them, cut to as many
words as the data set's text is wide. Only training rows count.

Shape letters: B rows, N documents, n owners, T words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from mdr_dist.batch import Batch, Documents, Extras, Ragged
from mdr_dist.data.mapped import Arrays, check_free, mapped
from mdr_dist.data.neighbours import of_none
from mdr_dist.data.ragged import Array, Ints, find, nth, spread, starts_of
from mdr_dist.data.reader import Reader
from mdr_dist.data.reviews import Reviews
from mdr_dist.data.users import Users
from mdr_dist.errors import UserError

_CHUNK = 1 << 14  # reviews copied at a time
_NOBODY = np.zeros(0, dtype=np.int64)
_SAME = {"other": "user"}  # what users wrote is the same text in whatever row it is read


@dataclass(frozen=True)
class Texts:
    """The documents of one kind in a domain: of owners [n] in order, words [T], starts [n+1].

    With authors [T], the user key of each word's, there are twice as many words as a document has: enough when one
    author's are left out, unless these fill a document.
    """

    owners: Ints
    starts: Ints
    words: Array
    authors: Array | None

    @classmethod
    def open(
        cls, reader: Reader, kind: str, *, domain: int, period: int | None, users: Users, authors: bool = False
    ) -> Texts:
        """Those of users, what others wrote alike (`auxiliary`) or of items; `users` are those of the job's domains.

        Built once for all workers of a machine.
        """
        width = reader.dataset.schema.text.width
        reviews = Reviews.open(reader, domain=domain, period=period)
        key = (kind, domain, period, authors, users.domains if kind == "auxiliary" else ())
        most = 2 * width if authors else width
        found = mapped(
            reader,
            "documents",
            key=key,
            build=lambda folder: _build(reviews, kind, users=users, most=most, folder=folder, authors=authors),
        )
        starts = np.asarray(found["starts"])
        words, written_by = (found.get(name, _NOBODY)[: starts[-1]] for name in ("words", "authors"))
        return cls(np.asarray(found["owners"]), starts, words, written_by if authors else None)


def _build(reviews: Reviews, kind: str, *, users: Users, most: int, folder: str, authors: bool) -> Arrays:
    review, owner = np.arange(len(reviews.user)), reviews.item if kind == "item" else reviews.user
    if kind == "auxiliary":
        review = reviews.alike(users.common.keys)
        review, owner = review[review >= 0], owner[review >= 0]
    order = np.argsort(owner, kind="stable")
    review, owner = review[order], owner[order]
    owners, first = np.unique(owner, return_index=True)
    length = reviews.starts[review + 1] - reviews.starts[review]
    before = np.cumsum(length) - length
    before -= np.repeat(before[first], np.diff(np.append(first, len(owner))))  # words of the owner's reviews so far
    ends = _write(reviews, review, count=np.clip(most - before, 0, length), folder=folder, authors=authors)
    return {"owners": owners, "starts": ends[np.append(first, len(owner))]}


def _write(reviews: Reviews, review: Ints, *, count: Ints, folder: str, authors: bool) -> Ints:
    """Put the first `count` [N] words of the reviews [N], with `authors` also who wrote each, into files.

    Returns [N+1] where those of each review begin, and the end.
    """
    ends = starts_of(count)
    size = max(int(ends[-1]), 1)
    kinds = [("words", np.int32), ("authors", np.int64)][: 1 + authors]
    check_free(folder, size * sum(np.dtype(kind).itemsize for _, kind in kinds), what="a data set's documents")
    files = {
        name: np.lib.format.open_memmap(f"{folder}/{name}.npy", mode="w+", dtype=kind, shape=(size,))
        for name, kind in kinds
    }
    for at in range(0, len(review), _CHUNK):
        part = slice(at, at + _CHUNK)
        place = slice(ends[at], ends[min(part.stop, len(review))])
        files["words"][place] = reviews.words[spread(reviews.starts[review[part]], count[part])]
        if authors:
            files["authors"][place] = np.repeat(reviews.user[review[part]], count[part])
    for file in files.values():
        file.flush()
    return ends


def check_documents(reader: Reader, extras: Extras, *, domains: tuple[int, ...]) -> None:
    """Raise `UserError` unless the data set has text, and two domains where documents are of the other one."""
    _ = reader.dataset.schema.text
    if {"other", "auxiliary"} & set(extras.documents) and len(domains) != 2:
        count = "one domain" if len(domains) == 1 else f"{len(domains)} domains"
        raise UserError(
            f"data set {reader.dataset.path}: the method reads reviews of one domain for the other, and the job has "
            f"{count}; set data.domains to two"
        )


class Documented:
    """What brings documents to batches."""

    def __init__(self, reader: Reader, extras: Extras, *, domains: tuple[int, ...], period: int | None) -> None:
        check_documents(reader, extras, domains=domains)
        schema = reader.dataset.schema
        self._item, self._kinds = schema.item, extras.documents
        self._most, self._vocabulary = schema.text.width, schema.text.rows
        self._others = np.zeros(len(schema.domains), dtype=np.int64)
        if len(domains) == 2:
            self._others[list(domains)] = domains[::-1]
        users = Users.open(reader, split="train", period=period, domains=domains)
        self._texts = {
            (kind, domain): Texts.open(
                reader,
                kind,
                domain=domain,
                period=period,
                users=users,
                authors=extras.leave_out and kind == "item",
            )
            for kind in dict.fromkeys(_SAME.get(kind, kind) for kind in extras.documents)
            for domain in domains
        }
        sizes = [len(texts.owners) for texts in self._texts.values()]
        self._first = dict(zip(self._texts, (np.cumsum(sizes) - sizes).tolist(), strict=True))

    def __call__(self, batch: Batch, _: int) -> Batch:
        """The batch with `documents` and the list feature `words`."""
        domain = batch.domain.numpy()
        wanted = np.concatenate([self._wanted(kind, batch) for kind in self._kinds])
        distinct, place = np.unique(wanted, axis=0, return_inverse=True)
        words, lengths = self._words(distinct)
        seen = np.zeros(self._vocabulary, dtype=bool)
        seen[words] = True
        values = (np.cumsum(seen) - 1)[words]
        at = dict(zip(self._kinds, torch.from_numpy(place.reshape(len(self._kinds), -1)), strict=True))
        documents = Documents(
            words=Ragged(torch.from_numpy(values), torch.from_numpy(lengths)),
            at=at,
            other=torch.from_numpy(self._others[domain]),
        )
        lists = {**batch.lists, "words": of_none(np.flatnonzero(seen), len(batch))}
        return replace(batch, lists=lists, documents=documents)

    def _wanted(self, kind: str, batch: Batch) -> Ints:
        """[B, 2] the number of each row's document, -1 where it has none, and whose words are left out, or -1."""
        domain, user = batch.domain.numpy(), batch.user_key.numpy()
        of = domain if kind in ("user", "item") else self._others[domain]
        owner = batch.ids[self._item].numpy() if kind == "item" else user
        wanted = np.full((len(batch), 2), -1, dtype=np.int64)
        real = batch.weight.numpy() > 0
        for k in np.unique(of[real]).tolist():
            key, rows = (_SAME.get(kind, kind), k), np.flatnonzero((of == k) & real)
            texts = self._texts[key]
            number, known = find(owner[rows], texts.owners)
            wanted[rows, 0] = np.where(known, self._first[key] + number, -1)
            if texts.authors is not None:
                wanted[rows, 1] = np.where(known, user[rows], -1)
        return wanted

    def _words(self, wanted: Ints) -> tuple[Ints, Ints]:
        """The words of documents [N, 2], which come in order of their numbers, and how many each has."""
        number, without = wanted.T
        lengths = np.zeros(len(number), dtype=np.int64)
        parts = [np.zeros(0, dtype=np.int64)]
        for key, texts in self._texts.items():
            first = self._first[key]
            low, high = np.searchsorted(number, [first, first + len(texts.owners)])
            own = number[low:high] - first
            count = texts.starts[own + 1] - texts.starts[own]
            place = spread(texts.starts[own], count)
            if texts.authors is not None:
                document = np.repeat(np.arange(len(own)), count)
                place, document = _others_words(place, document, texts.authors, without[low:high], most=self._most)
                count = np.bincount(document, minlength=len(own))
            lengths[low:high] = count
            parts.append(texts.words[place].astype(np.int64))
        return np.concatenate(parts), lengths


def _others_words(place: Ints, document: Ints, authors: Array, without: Ints, *, most: int) -> tuple[Ints, Ints]:
    """The places of words that a document's left-out author did not write, `most` a document; and their documents."""
    kept = authors[place] != without[document]
    place, document = place[kept], document[kept]
    first = nth(np.bincount(document)) < most
    return place[first], document[first]
