"""Full ranking against a program of sets and binomials, on one and on two processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdr_dist.config import DataConfig, EvalConfig, TablesConfig
from mdr_dist.data.reader import Dataset
from mdr_dist.data.source import Source
from mdr_dist.errors import UserError
from mdr_dist.eval import ranking as module
from mdr_dist.eval.ranking import rank, rank_users
from mdr_dist.launch.process import group_of_one
from mdr_dist.stage import Slice
from mdr_dist.tables import PlainTables, build_tables
from support.groups import in_group
from support.retrieval import DOMAINS, KEY, Factors, FactorsConfig, Oracle, Row, scores_of, write_log

CPU = torch.device("cpu")
KS = (1, 3, 10)
Metrics = dict[str, Any]


@pytest.fixture(autouse=True)
def small_blocks(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of users and items, and several passes over the items."""
    monkeypatch.setattr(module, "ITEMS", 64)
    monkeypatch.setattr(module, "USERS", 8)
    monkeypatch.setattr(module, "HELD", 3)
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmpdir")))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """A new name for a data set at each call."""
    names = (str(tmp_path / f"log-{number}") for number in range(10**6))
    yield lambda: next(names)


def random_log(seed: int, *, users: int = 50, items: int = 300, rows: int = 3000) -> list[Row]:
    """Interactions of both domains, some repeated, some of label 0, some with the default row or unseen items."""
    rng = np.random.default_rng(seed)
    log: list[Row] = []
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        for domain in DOMAINS:
            n = int(rows * share)
            item = np.minimum(rng.zipf(1.3, n) - 1, items - 1 if split != "train" else items - 20)
            label = (rng.random(n) < 0.7).astype(float)
            user = rng.integers(1, users, n)
            log += [
                Row(split, domain, *found) for found in zip(user.tolist(), item.tolist(), label.tolist(), strict=True)
            ]
    return log


def source_of(dataset: Dataset, **places: int) -> Source:
    return Source(dataset, DataConfig(path=dataset.path, batch=16), seed=3, **places)


def build(dataset: Dataset, **config: Any) -> tuple[Factors, PlainTables]:
    method = Factors(FactorsConfig(**config), dataset.schema)
    tables = PlainTables.build(method.tables(), method.stages(), config=TablesConfig(), device=CPU, seed=7)
    return method, tables


def ranked(dataset: Dataset, split: str = "test", *, ks: tuple[int, ...] = KS, **config: Any) -> Metrics:
    method, tables = build(dataset, **config)
    source, slice_ = source_of(dataset), Slice(split=split)
    return rank(method, tables, source=source, slice_=slice_, config=EvalConfig(ks=ks), device=CPU)


def check(  # budget: a figure each of what was ranked, and how
    dataset: Dataset,
    log: list[Row],
    found: Metrics,
    *,
    split: str,
    ks: tuple[int, ...],
    everywhere: bool = False,
    **config: Any,
) -> None:
    """Every figure of every domain, and the macro means."""
    method, tables = build(dataset, **config)
    whole = {name.removesuffix("/weight"): value for name, value in tables.state().items() if name.endswith("weight")}
    means: dict[str, list[float]] = {}
    for number, domain in enumerate(DOMAINS):
        oracle = Oracle(log, split, domain, ks, everywhere=everywhere)
        scores = scores_of(method, whole, number)
        expected = oracle.means(scores) if oracle.users() else {}
        got = {name: value for name, value in found[domain].items() if "@" in name}
        assert {n: v for n, v in got.items() if v is not None} == pytest.approx(expected, abs=1e-9)
        for name, value in expected.items():
            means.setdefault(name, []).append(value)
        positive = [row for row in log if (row.split, row.domain) == (split, domain) and row.label > 0.5]
        assert {name: value for name, value in found[domain].items() if "@" not in name} == {
            "users": len(oracle.users()),
            "skipped": oracle.skipped,
            "items": len(oracle.catalogue),
            "truths": sum(len(oracle.lists[user][1]) for user in oracle.users()),
            "unrankable": oracle.unrankable,
            "duplicates": len(positive) - len({(row.user, row.item) for row in positive}),
        }
    macro = {name: value for name, value in found["macro"].items() if value is not None}
    assert macro == pytest.approx({name: np.mean(values) for name, values in means.items()}, abs=1e-9)


@pytest.mark.parametrize("split", ["val", "test", "train"])
@pytest.mark.parametrize("levels", [0, 1, 2, 4])
def test_figures_are_the_oracles(split: str, levels: int, folder: Callable[[], str]) -> None:
    log = random_log(levels)
    dataset = write_log(folder(), log)
    found = ranked(dataset, split, levels=levels)
    assert found["books"]["unrankable"] > 0 or split == "train"
    assert found["books"]["recall@10"] < 1
    check(dataset, log, found, split=split, ks=KS, levels=levels)


@pytest.mark.parametrize("split", ["val", "test"])
def test_candidates_may_be_the_items_of_all_domains(split: str, folder: Callable[[], str]) -> None:
    log = random_log(1)
    dataset = write_log(folder(), log, shared=True)
    method, tables = build(dataset, levels=2)
    config = EvalConfig(ks=KS, candidates="all")
    arguments = {"source": source_of(dataset), "slice_": Slice(split=split), "device": CPU}
    found = rank(method, tables, **arguments, config=config)
    check(dataset, log, found, split=split, ks=KS, everywhere=True, levels=2)
    own = rank(method, tables, **arguments, config=EvalConfig(ks=KS))
    assert found["books"]["items"] == found["films"]["items"] > own["films"]["items"]
    check(dataset, log, own, split=split, ks=KS, levels=2)


def test_items_of_domains_that_share_no_ids_cannot_be_candidates_together(folder: Callable[[], str]) -> None:
    dataset = write_log(folder(), random_log(1))
    method, tables = build(dataset)
    with pytest.raises(UserError, match=r"eval\.candidates: all needs domains that share item ids; in data set"):
        rank(
            method,
            tables,
            source=source_of(dataset),
            slice_=Slice(split="test"),
            config=EvalConfig(ks=KS, candidates="all"),
            device=CPU,
        )


@settings(deadline=None, max_examples=25)
@given(
    log=st.lists(
        st.builds(
            Row, st.sampled_from(["train", "val", "test"]), st.sampled_from(DOMAINS), st.integers(1, 5),
            st.integers(0, 7), st.sampled_from([0.0, 1.0, 1.0]), st.just(-1),
        ),
        min_size=5, max_size=60,
    ),
    levels=st.sampled_from([0, 1, 3]),
)  # fmt: skip
def test_tiny_logs(log: list[Row], levels: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    log = [*(Row(s, d, 1, 1 + i) for s in ("train", "test") for d in DOMAINS for i in (0, 4, 5)), *log]
    dataset = write_log(str(tmp_path_factory.mktemp("tiny") / "log"), log)
    found = ranked(dataset, ks=(1, 3), levels=levels)
    check(dataset, log, found, split="test", ks=(1, 3), levels=levels)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_constant_scorer_gets_the_random_level(domain: str, folder: Callable[[], str]) -> None:
    found = ranked(write_log(folder(), random_log(5)), constant=True)[domain]
    own = {name: value for name, value in found.items() if "@" in name and not name.startswith("random/")}
    assert len(own) == 15 and own == {name: found[f"random/{name}"] for name in own}
    assert 0 < own["recall@10"] < 0.1


def test_a_perfect_scorer_gets_everything(folder: Callable[[], str]) -> None:
    """Users and items of a kind meet: the vectors are one-hot, by hand."""
    log = [Row("train", "books", 9, item) for item in range(1, 41)]
    log += [Row("test", "books", user, 2 * user + at) for user in range(1, 9) for at in (0, 1)]
    method, tables = build(write_log(folder(), log), dim=20)
    weights = {name: torch.zeros_like(value) for name, value in tables.state().items() if name.endswith("/weight")}
    for user in range(20):
        weights["user/weight"][user, user] = 10.0
        weights["item/weight"][[2 * user, 2 * user + 1], user] = 10.0
    for name in ("user", "item", "tags"):
        tables.load_table(name, weights[f"{name}/weight"])
    source, config = source_of(Dataset.open(method_path(log, folder))), EvalConfig(ks=(1, 2, 4))
    found = rank(method, tables, source=source, slice_=Slice(split="test"), config=config, device=CPU)["books"]
    assert [found[f"recall@{k}"] for k in (1, 2, 4)] == [0.5, 1.0, 1.0]
    assert [found[f"precision@{k}"] for k in (1, 2, 4)] == [1.0, 1.0, 0.5]
    assert [found[f"{name}@{k}"] for name in ("ndcg", "hit", "mrr") for k in (1, 2, 4)] == [1.0] * 9


def method_path(log: list[Row], folder: Callable[[], str]) -> str:
    return write_log(folder(), log).path


def test_without_labels_every_row_counts(folder: Callable[[], str]) -> None:
    log = [row._replace(label=1.0) for row in random_log(8)]
    dataset = write_log(folder(), log, labelled=False)
    check(dataset, log, ranked(dataset), split="test", ks=KS)


def test_users_without_a_truth_to_find_are_skipped(folder: Callable[[], str]) -> None:
    log = [Row("train", "books", user, item) for user in (1, 2, 3) for item in range(1, 9)]
    log += [Row("val", "books", 4, 1), Row("val", "books", 5, 1)]
    log += [
        Row("test", "books", 1, 9),  # unseen in training
        Row("test", "books", 2, 3),  # taken in training
        Row("test", "books", 3, 0),  # the default row
        Row("test", "books", 4, 1),  # taken in validation
        Row("test", "books", 5, 1), Row("test", "books", 5, 2), Row("test", "books", 5, 2),
    ]  # fmt: skip
    method, tables = build(dataset := write_log(folder(), log))
    config = EvalConfig(ks=(2,))
    arguments = {"source": source_of(dataset), "slice_": Slice(split="test"), "config": config, "device": CPU}
    found = rank(method, tables, **arguments)["books"]
    assert (found["users"], found["skipped"], found["truths"], found["unrankable"]) == (1, 4, 1, 5)
    assert found["duplicates"] == 1
    users = rank_users(method, tables, **arguments)["books"]
    assert users.user_key.tolist() == [5 * KEY] and users.truths.tolist() == [1] and users.candidates.tolist() == [7]


def test_nobody_to_rank_for(folder: Callable[[], str]) -> None:
    log = [*(Row("train", "books", 1, item) for item in range(1, 5)), Row("test", "books", 2, 3, 0.0)]
    found = ranked(write_log(folder(), log), ks=(2,))
    assert found["books"]["recall@2"] is None and found["books"]["users"] == 0
    assert found["macro"]["recall@2"] is None


def test_k_beyond_the_catalogue(folder: Callable[[], str]) -> None:
    log = [Row(split, "books", 1, item) for split in ("train", "test") for item in range(7)]
    dataset = write_log(folder(), log)
    with pytest.raises(UserError, match=r"eval\.ks: 7 exceeds the catalogue of domain books, 6 items"):
        ranked(dataset, ks=(3, 7))
    assert ranked(dataset, "train", ks=(6,))["books"]["recall@6"] == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("side", ["user", "item"])
def test_what_is_no_number_is_refused(bad: float, side: str, folder: Callable[[], str]) -> None:
    method, tables = build(dataset := write_log(folder(), random_log(1)))
    tables.state()[f"{side}/weight"][10, 3] = bad
    config = EvalConfig(ks=KS)
    with pytest.raises(FloatingPointError, match=rf"Factors\.{side}_vector, domain books: a vector has the length"):
        rank(method, tables, source=source_of(dataset), slice_=Slice(split="test"), config=config, device=CPU)


def test_a_sample_of_users_is_the_same_each_time(folder: Callable[[], str]) -> None:
    method, tables = build(dataset := write_log(folder(), random_log(2)))
    arguments = {"source": source_of(dataset), "slice_": Slice(split="test"), "device": CPU}
    every = rank_users(method, tables, **arguments, config=EvalConfig(ks=KS))["books"]
    some = rank_users(method, tables, **arguments, config=EvalConfig(ks=KS, users=20))["books"]
    again = rank_users(method, tables, **arguments, config=EvalConfig(ks=KS, users=20))["books"]
    assert len(some.user_key) + some.skipped == 20 < len(every.user_key)
    assert np.array_equal(some.user_key, again.user_key)
    at = np.searchsorted(every.user_key, some.user_key)
    assert np.array_equal(every.user_key[at], some.user_key)
    assert all(np.array_equal(every.metrics[name][at], some.metrics[name]) for name in some.metrics)


def _rank_sharded(dataset: Dataset, placement: str, spread: int) -> Metrics:
    module.ITEMS, module.SPREAD, module.HELD = 64, spread, 2
    rank_, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    method, _ = build(dataset)
    config = TablesConfig.model_validate({"placement": placement})
    tables = build_tables(method.tables(), method.stages(), config=config, device=CPU, seed=7)
    source = source_of(dataset, rank=rank_, world=world)
    return rank(method, tables, source=source, slice_=Slice(split="test"), config=EvalConfig(ks=KS), device=CPU)


@pytest.mark.parametrize(("placement", "spread"), [("row_wise", 7), ("table_wise", 1)])
def test_two_processes_find_what_one_does(placement: str, spread: int, folder: Callable[[], str]) -> None:
    """To the last digit; with one block of users the second process has none of its own."""
    log = random_log(4)
    dataset = write_log(folder(), log)
    one = in_group(1, _rank_sharded, dataset, placement, spread)[0]
    two = in_group(2, _rank_sharded, dataset, placement, spread)
    assert two == [one, one]
    check(dataset, log, one, split="test", ks=KS)


def test_only_the_named_domains(folder: Callable[[], str]) -> None:
    dataset = write_log(folder(), random_log(6))
    method, tables = build(dataset)
    slice_ = replace(Slice(split="test"), domains=(1,))
    with group_of_one():
        found = rank(
            method, tables, source=source_of(dataset), slice_=slice_, config=EvalConfig(ks=KS), device=CPU
        )  # fmt: skip
    assert list(found) == ["films", "macro"]
    assert found["macro"]["ndcg@10"] == found["films"]["ndcg@10"]
