"""The documents of a batch's rows, against texts put together in plain Python from the rows written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mdr_dist.batch import DOCUMENTS, Batch, Extras
from mdr_dist.config import DataConfig
from mdr_dist.data import documents as module
from mdr_dist.data.reader import Reader
from mdr_dist.data.reviews import Reviews
from mdr_dist.data.source import Source
from mdr_dist.errors import UserError
from mdr_dist.stage import Slice
from support.documents import Log, documents_of, rated

Make = Callable[..., Any]
SIZES = {
    ("train", "books", -1): 130,
    ("train", "films", -1): 90,
    ("val", "films", -1): 21,
    ("test", "books", -1): 37,
}
ALL = Extras(documents=DOCUMENTS)


def source(data: Any, extras: Extras = ALL, *, rank: int = 0, world: int = 1, **settings: Any) -> Source:
    config = DataConfig.model_validate({"path": data.path, "batch": 24, "streams": 6, **settings})
    return Source(data.dataset, config, seed=3, rank=rank, world=world, extras=extras)


def batches_of(reader: Source, split: str) -> Iterator[Batch]:
    slice_ = Slice(split=split)
    return reader.batches(slice_, stage="s", epoch=0) if split == "train" else reader.sweep(slice_)


class Expected:
    """What every kind of document of a row says."""

    def __init__(self, data: Any, *, log: Log | None = None, leave_out: bool = False) -> None:
        self._log, self._leave_out = log or Log(data), leave_out
        common = np.array(sorted(self._log.common))
        self._alike = {k: Reviews.open(Reader(data.dataset), domain=k).alike(common).tolist() for k in self._log.rows}

    def of(self, kind: str, row: dict[str, Any]) -> list[int]:
        log, domain, key = self._log, row["domain"], row["user_key"]
        if kind == "item":
            return log.item(domain, row["item"], without=key if self._leave_out else -1)
        if kind == "user":
            return log.user(domain, key)
        rows = log.rows[1 - domain]
        if kind == "other":
            return log.user(1 - domain, key)
        places = [place for row, place in zip(rows, self._alike[1 - domain], strict=True) if row["user_key"] == key]
        return log.text([rows[place] for place in places if place >= 0])


@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_what_is_written_by_and_about_the_rows(tiny: Make, split: str, leave_out: bool) -> None:
    data = tiny(SIZES, change=rated)
    expected = Expected(data, leave_out=leave_out)
    lengths: dict[str, set[int]] = {kind: set() for kind in DOCUMENTS}
    serials = []
    for batch in batches_of(source(data, Extras(documents=DOCUMENTS, leave_out=leave_out)), split):
        found = {kind: documents_of(batch, kind) for kind in DOCUMENTS}
        assert batch.documents and batch.documents.other.tolist() == (1 - batch.domain).tolist()
        for at, (serial, weight) in enumerate(zip(batch.ids["serial"].tolist(), batch.weight.tolist(), strict=True)):
            if not weight:
                assert all(texts[at] == [] for texts in found.values())
                continue
            serials.append(serial)
            for kind, texts in found.items():
                assert texts[at] == expected.of(kind, data.row(serial)), kind
                lengths[kind].add(len(texts[at]))
    assert sorted(serials) == sorted(data.serials(split))
    assert split != "train" or all({0, 1, 4} <= own and max(own) == 4 for own in lengths.values()), lengths


def test_a_document_stands_once_and_so_does_a_word(tiny: Make) -> None:
    for batch in batches_of(source(tiny(SIZES, change=rated)), "train"):
        assert batch.documents
        words, lengths = batch.lists["words"], batch.documents.words.lengths
        assert words.values.tolist() == sorted(set(words.values.tolist()))
        assert words.lengths.tolist() == [len(words.values)] + [0] * 23
        assert set(batch.documents.words.values.tolist()) == set(range(len(words.values)))
        assert int(lengths.sum()) == len(batch.documents.words.values)
        places = [place for at in batch.documents.at.values() for place in at.tolist()]
        assert set(places) == set(range(len(lengths)))
        real = batch.weight > 0
        items = set(batch.ids["item"][real].tolist())
        assert len(set(batch.documents.at["item"][real].tolist())) == len(items)
        # what a user wrote in a domain, in whichever of the two the row is
        keys, domains = batch.user_key[real].tolist(), batch.domain[real].tolist()
        at = {kind: batch.documents.at[kind][real].tolist() for kind in ("user", "other")}
        own = {(key, k): place for key, k, place in zip(keys, domains, at["user"], strict=True)}
        for key, k, place in zip(keys, domains, at["other"], strict=True):
            assert own.get((key, 1 - k), place) == place


def test_an_item_without_a_users_words_is_cut_afterwards(tiny: Make) -> None:
    """The first author fills the document; the others' words follow where these are left out."""

    def change(key: tuple[str, str, int], table: Any) -> Any:
        rows = rated(key, table).slice(0, 3).to_pylist()
        for row, user, words in zip(rows, (1, 2, 3), ([1, 2, 3, 4], [5, 6, 7], [8, 9]), strict=True):
            row |= {"user": user, "user_key": user, "item": 30 * (key[1] == "films"), "words": words}
        return table.from_pylist(rows, schema=table.schema)

    data = tiny({("train", "books", -1): 3, ("train", "films", -1): 3}, change=change)
    (batch,) = batches_of(source(data, Extras(documents=("item",), leave_out=True)), "train")
    found = dict(zip(batch.user_key.tolist(), documents_of(batch, "item"), strict=True))
    # of eight words, twice a document's, the ninth is lost
    assert found == {1: [5, 6, 7, 8], 2: [1, 2, 3, 4], 3: [1, 2, 3, 4], -1: []}
    (batch,) = batches_of(source(data, Extras(documents=("item",))), "train")
    assert documents_of(batch, "item")[0] == [1, 2, 3, 4]


@pytest.mark.parametrize("split", ["train", "test"])
def test_any_number_of_workers_has_the_same_documents(tiny: Make, split: str) -> None:
    data = tiny(SIZES, change=rated)

    def texts(*readers: Source) -> dict[int, list[list[int]]]:
        return {
            serial: [documents_of(batch, kind)[at] for kind in DOCUMENTS]
            for reader in readers
            for batch in batches_of(reader, split)
            for at, serial in enumerate(batch.ids["serial"].tolist())
            if batch.weight[at]
        }

    one = texts(source(data))
    assert texts(*(source(data, rank=rank, world=4) for rank in range(4))) == one
    assert len(one) == len(data.serials(split))


def test_documents_copied_in_pieces_are_the_same(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 7)
    data = tiny(SIZES, change=rated)
    for leave_out in (False, True):
        expected = Expected(data, leave_out=leave_out)
        for batch in batches_of(source(data, Extras(documents=("user", "item"), leave_out=leave_out)), "train"):
            for kind in ("user", "item"):
                for text, serial in zip(documents_of(batch, kind), batch.ids["serial"].tolist(), strict=True):
                    assert not text or text == expected.of(kind, data.row(serial))


def test_documents_up_to_a_period(tiny: Make) -> None:
    data = tiny({("train", d, p): 40 for d in ("books", "films") for p in (0, 1)}, change=rated)
    reader = source(data, Extras(documents=("user", "other", "item")))
    for period in (0, 1):
        expected = Expected(data, log=Log(data, upto=period)) if period else None
        log = Log(data, upto=period)
        for batch in reader.batches(Slice(period=period), stage="s", epoch=0):
            for at in (batch.weight > 0).nonzero().squeeze(1).tolist():
                row = data.row(int(batch.ids["serial"][at]))
                assert documents_of(batch, "user")[at] == log.user(row["domain"], row["user_key"])
                assert documents_of(batch, "other")[at] == log.user(1 - row["domain"], row["user_key"])
                assert documents_of(batch, "item")[at] == log.item(row["domain"], row["item"])
                assert expected is None or documents_of(batch, "item")[at] == expected.of("item", row)


def test_two_domains_of_three(tiny: Make) -> None:
    data = tiny({("train", d, -1): 60 for d in ("books", "films", "music")}, change=rated)
    log = Log(data, domains=(0, 2))
    common = np.array(sorted(log.common))
    assert log.common != Log(data, domains=(0, 1)).common
    alike = {k: Reviews.open(Reader(data.dataset), domain=k).alike(common).tolist() for k in (0, 2)}
    for batch in batches_of(source(data, domains=("music", "books")), "train"):
        assert batch.documents and batch.documents.other[batch.weight > 0].tolist() == [
            2 - k for k in batch.domain[batch.weight > 0].tolist()
        ]
        for at in (batch.weight > 0).nonzero().squeeze(1).tolist():
            key, other = int(batch.user_key[at]), 2 - int(batch.domain[at])
            assert documents_of(batch, "other")[at] == log.user(other, key)
            rows = log.rows[other]
            places = [place for row, place in zip(rows, alike[other], strict=True) if row["user_key"] == key]
            assert documents_of(batch, "auxiliary")[at] == log.text([rows[place] for place in places if place >= 0])


# what is wrong with the question


@pytest.mark.parametrize("kind", ["other", "auxiliary"])
def test_the_other_domain_must_be_one(tiny: Make, kind: str) -> None:
    data = tiny({("train", d, -1): 30 for d in ("books", "films", "music")}, change=rated)
    extras = Extras(documents=(kind,))
    with pytest.raises(UserError, match=r"of one domain for the other, and the job has 3 domains; set data\.domains"):
        source(data, extras).check(Slice())
    with pytest.raises(UserError, match="the job has one domain"):
        source(data, extras, domains=("films",)).check(Slice())
    source(data, extras, domains=("films", "books")).check(Slice())
    three = source(data, Extras(documents=("user", "item")))
    three.check(Slice())
    log = Log(data, domains=(0, 1, 2))
    for batch in batches_of(three, "train"):
        for at in (batch.weight > 0).nonzero().squeeze(1).tolist():
            assert documents_of(batch, "user")[at] == log.user(int(batch.domain[at]), int(batch.user_key[at]))


def test_without_text_there_are_no_documents(tiny: Make) -> None:
    data = tiny(SIZES, change=rated)
    features = tuple(feature for feature in data.dataset.schema.features if feature.kind != "text")
    schema = data.dataset.schema.model_copy(update={"features": features})
    again = data.write(schema, {key: table.drop(["words"]) for key, table in data.tables.items()})
    with pytest.raises(UserError, match=r"has no text, which the method reads"):
        source(again).check(Slice())
    source(again, Extras()).check(Slice())
