"""What batches bring beside the data set's features, against sets written out from the rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mdr_dist.batch import Batch, Extras
from mdr_dist.config import DataConfig, EvalConfig
from mdr_dist.data.reader import Dataset
from mdr_dist.data.source import Source
from mdr_dist.eval.candidates import Candidates
from mdr_dist.stage import Slice, Stage, within
from support.retrieval import DOMAINS, KEY, Row
from support.taken import FADED, NEW, taken, taken_rows, write_taken

ALL = Extras(history=True, catalogue=1000)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], Dataset]:
    rows = taken_rows()
    return rows, write_taken(str(tmp_path_factory.mktemp("taken") / "log"), rows)


def source_of(dataset: Dataset, extras: Extras = ALL, *, rank: int = 0, world: int = 1) -> Source:
    data = DataConfig(path=dataset.path, batch=16, streams=4)
    return Source(dataset, data, seed=3, rank=rank, world=world, extras=extras)


def lists_of(batch: Batch, name: str) -> list[list[int]]:
    ragged = batch.lists[name]
    return [part.tolist() for part in ragged.values.split(ragged.lengths.tolist())]


@pytest.mark.parametrize("unit", ["row", "user"])
@pytest.mark.parametrize("domains", [(0,), (1,), None])
@pytest.mark.parametrize("split", ["train", "val"])
def test_what_the_rows_users_took(
    log: tuple[list[Row], Dataset], unit: str, domains: tuple[int, ...] | None, split: str
) -> None:
    rows, dataset = log
    names = DOMAINS if domains is None else [DOMAINS[k] for k in domains]
    history, target = taken(rows, "train", names), taken(rows, split, names)
    slice_ = Slice(split=split, unit=unit, domains=domains)  # type: ignore[arg-type]
    source = source_of(dataset)
    batches = list(source.batches(slice_, stage="s", epoch=0) if split == "train" else source.sweep(slice_))
    seen: Counter[int] = Counter()
    for batch in batches:
        found = zip(batch.user_key.tolist(), lists_of(batch, "history"), lists_of(batch, "taken"), strict=True)
        for key, own, asked in found:
            assert own == sorted(history.get(key, ()))
            assert asked == sorted(target.get(key, ()))
            seen[key] += 1
        catalogue = batch.lists["catalogue"].values.tolist()
        assert catalogue == sorted({r.item for r in rows if r.split == "train" and r.domain in names} - {0})
        assert [len(part) for part in lists_of(batch, "catalogue")] == [len(catalogue)] + [0] * 15
    assert seen[-1] or unit == "user"  # padding, which took nothing
    if unit == "user":
        # each once; one who took the default row alone is a user, too
        expected = {KEY * r.user for r in rows if r.split == split and r.domain in names and r.label > 0.5}
        assert {key: count for key, count in seen.items() if key >= 0} == dict.fromkeys(expected, 1)
    if split == "val" and 0 in (domains or (0,)):
        assert seen[KEY * FADED] == 1 and KEY * FADED not in history


def test_profiles_that_are_ranked_know_the_history_of_all_domains(log: tuple[list[Row], Dataset]) -> None:
    rows, dataset = log
    history, slice_ = taken(rows, "train"), Slice(split="test", domains=(1,))
    candidates = Candidates(source_of(dataset), slice_, domain=1, config=EvalConfig(ks=(5,)))
    users, _ = candidates.profiles()
    size = len(candidates.user_key)
    batch = candidates.completed(users.batch(np.arange(size), size=size, first=0, count=size))
    assert KEY * NEW in candidates.user_key
    assert lists_of(batch, "history") == [sorted(history.get(key, ())) for key in candidates.user_key.tolist()]
    assert not sum(len(batch.lists[name].values) for name in ("catalogue", "taken"))


@pytest.mark.parametrize("context", [(0,), (0, 1)])
def test_histories_are_of_the_context_and_targets_of_the_slice(
    log: tuple[list[Row], Dataset], context: tuple[int, ...]
) -> None:
    rows, dataset = log
    history, target = taken(rows, "train", [DOMAINS[k] for k in context]), taken(rows, "train", [DOMAINS[1]])
    slice_, source = Slice(unit="user", domains=(1,), context=context), source_of(dataset)
    for batch in source.batches(slice_, stage="s", epoch=0):
        for key, own, asked in zip(
            batch.user_key.tolist(), lists_of(batch, "history"), lists_of(batch, "taken"), strict=True
        ):
            assert own == sorted(history.get(key, ())) and asked == sorted(target.get(key, ()))
    ranked = Slice(split="test", context=context)
    candidates = Candidates(source_of(dataset), ranked, domain=1, config=EvalConfig(ks=(5,)))
    users, _ = candidates.profiles()
    size = len(candidates.user_key)
    batch = candidates.completed(users.batch(np.arange(size), size=size, first=0, count=size))
    assert lists_of(batch, "history") == [sorted(history.get(key, ())) for key in candidates.user_key.tolist()]


def test_a_job_for_fewer_domains_shows_no_others() -> None:
    data, test = Slice(domains=(2,), context=(0, 1, 2)), Slice(split="test", context=(0, 1, 2))
    stage = Stage(name="s", loss=lambda rows, batch: {}, data=data, train=("t",), test=test)
    (kept,) = within((stage,), (1, 2))
    assert (kept.data.domains, kept.data.context) == ((2,), (1, 2))
    assert kept.test and (kept.test.domains, kept.test.context) == (None, (1, 2))
    assert not within((stage,), (0, 1))


def test_a_large_catalogue_is_sampled_alike_everywhere_and_anew_at_each_step(log: tuple[list[Row], Dataset]) -> None:
    _, dataset = log
    slice_ = Slice(unit="user")
    whole = next(iter(source_of(dataset).batches(slice_, stage="s", epoch=0))).lists["catalogue"].values.tolist()
    counts: Counter[int] = Counter()
    steps = 0
    for epoch in range(150):
        sources = [
            source_of(dataset, Extras(catalogue=6), rank=rank, world=world) for rank, world in ((0, 1), (0, 2), (1, 2))
        ]
        parts = [source.batches(slice_, stage="s", epoch=epoch) for source in sources[: 3 if epoch < 2 else 1]]
        for batches in zip(*parts, strict=True):
            drawn = [batch.lists["catalogue"].values.tolist() for batch in batches]
            assert drawn.count(drawn[0]) == len(drawn)
            assert len(set(drawn[0])) == 6 and set(drawn[0]) <= set(whole) and drawn[0] == sorted(drawn[0])
            counts.update(drawn[0])
            steps += 1
    share = 6 / len(whole)
    assert set(counts) == set(whole)
    deviation = (steps * share * (1 - share)) ** 0.5
    assert all(abs(count - steps * share) < 4.5 * deviation for count in counts.values())


def test_progress_goes_from_0_to_1(log: tuple[list[Row], Dataset]) -> None:
    source = source_of(log[1], Extras())
    whole = [batch.progress for batch in source.batches(Slice(), stage="s", epoch=0)]
    assert whole == pytest.approx(np.linspace(0, 1, len(whole))) and len(whole) > 10
    assert [batch.progress for batch in source.batches(Slice(), stage="s", epoch=0, start=7)] == whole[7:]
    large = Source(log[1], DataConfig(path=log[1].path, batch=64), seed=0)
    assert [batch.progress for batch in large.batches(Slice(unit="user"), stage="s", epoch=0)] == [1.0]
