"""Ranking against sampled candidates: the draws by lists of free items, the figures by a program that ranks each truth.

Scores are small integers, so that any arithmetic gives the same; a truth's `name` is its user's key and its item.
"""

from __future__ import annotations

import json
from collections import defaultdict
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats

from mdr_dist import catalog
from mdr_dist.config import DataConfig, EvalConfig, Job, TablesConfig
from mdr_dist.data.negatives import uniforms
from mdr_dist.data.order import seed_of
from mdr_dist.data.reader import Dataset
from mdr_dist.data.source import Source
from mdr_dist.eval import ranking
from mdr_dist.eval import sampled as module
from mdr_dist.eval.candidates import Asked
from mdr_dist.eval.ranking import rank, rank_users
from mdr_dist.eval.sampled import names_of, sampled_standing
from mdr_dist.eval.scores import inner_products
from mdr_dist.launch.process import train_here
from mdr_dist.stage import Slice
from mdr_dist.tables import PlainTables, build_tables
from support.command import mdr, refused
from support.groups import in_group
from support.retrieval import DOMAINS, KEY, Distances, Factors, FactorsConfig, Oracle, Row, scores_of, write_log

CPU, KS, COUNT = torch.device("cpu"), (1, 3, 10), 40


@pytest.fixture(autouse=True)
def few_at_once(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts of truths, of which the last has one."""
    monkeypatch.setattr(module, "TRUTHS", 8)
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmpdir")))
    monkeypatch.setattr("tempfile.tempdir", None)


def random_log(seed: int) -> list[Row]:
    """Both domains; the test split has items that training lacks, and some that the user took before."""
    rng, log = np.random.default_rng(seed), list[Row]()
    for split, rows in (("train", 900), ("val", 100), ("test", 201)):
        for domain in DOMAINS:
            user, item = rng.integers(1, 40, rows), np.minimum(rng.zipf(1.3, rows) - 1, 80 if split == "train" else 90)
            label = (rng.random(rows) < 0.8).astype(float)
            log += [
                Row(split, domain, *found) for found in zip(user.tolist(), item.tolist(), label.tolist(), strict=True)
            ]
    return log


def build(dataset: Dataset, *, kind: type[Factors] = Factors, **config: Any) -> tuple[Factors, PlainTables]:
    method = kind(FactorsConfig(**config), dataset.schema)
    return method, PlainTables.build(method.tables(), method.stages(), config=TablesConfig(), device=CPU, seed=7)


def asking(dataset: Dataset, *, count: int = COUNT, **config: Any) -> dict[str, Any]:
    """What `rank` and `rank_users` want."""
    method, tables = build(dataset, **config)
    source = Source(dataset, DataConfig(path=dataset.path, batch=16), seed=3)
    config_ = EvalConfig(ks=KS, sampled=count)
    return {
        "method": method, "lookup": tables, "source": source, "slice_": Slice(split="test"), "config": config_,
        "device": CPU,
    }  # fmt: skip


def drawn_for(user: int, truth: int, oracle: Oracle, *, count: int) -> list[int]:
    """The candidates of a truth: items of the list of those the user took neither earlier nor now, by number."""
    candidates, truths = oracle.lists[user]
    free, catalogue = sorted(candidates - truths), sorted(oracle.catalogue)
    name = user * KEY * len(catalogue) + catalogue.index(truth)
    draws = uniforms(np.array([name]), count, seed_of("sampled", oracle.domain))[:, 0]
    return [free[int(u * len(free))] for u in draws]


def figures_of(oracle: Oracle, scores: np.ndarray, *, count: int) -> dict[tuple[int, int], dict[str, float]]:
    """(user, truth) → its metrics, the mean over all places that a tie may leave it at."""
    found: dict[tuple[int, int], dict[str, float]] = {}
    for user, (_, truths) in oracle.lists.items():
        for truth in truths:
            own = scores[user, truth]
            others = [scores[user, item] for item in drawn_for(user, truth, oracle, count=count)]
            above, tied = sum(other > own for other in others), 1 + sum(other == own for other in others)
            places, figures = range(above + 1, above + tied + 1), dict[str, float]()
            for k in KS:
                hit = np.mean([place <= k for place in places])
                figures |= {f"recall@{k}": hit, f"hit@{k}": hit, f"precision@{k}": hit / k}
                figures[f"ndcg@{k}"] = np.mean([(place <= k) / log2(place + 1) for place in places])
                figures[f"mrr@{k}"] = np.mean([(place <= k) / place for place in places])
            found[user, truth] = figures
    return found


@pytest.mark.parametrize("kind", [Factors, Distances])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_figures_are_those_of_a_program(levels: int, kind: type[Factors], tmp_path: Path) -> None:
    log = random_log(levels)
    dataset = write_log(str(tmp_path / "log"), log)
    arguments = asking(dataset, levels=levels, kind=kind)
    whole = {name: arguments["lookup"].state()[f"{name}/weight"] for name in ("user", "item", "tags")}
    by_user, found = rank_users(**arguments), rank(**arguments)
    for number, domain in enumerate(DOMAINS):
        oracle = Oracle(log, "test", domain, KS)
        expected = figures_of(oracle, scores_of(arguments["method"], whole, number), count=COUNT)
        catalogue = sorted(oracle.catalogue)
        names = {user * KEY * len(catalogue) + catalogue.index(truth): (user, truth) for user, truth in expected}
        users = by_user[domain]
        assert [names[name] for name in users.user_key.tolist()] == sorted(expected)
        for metric, values in users.metrics.items():
            assert values == pytest.approx([expected[pair][metric] for pair in sorted(expected)], abs=1e-9), metric
        means = {metric: np.mean([entry[metric] for entry in expected.values()]) for metric in users.metrics}
        assert {name: found[domain][name] for name in means} == pytest.approx(means, abs=1e-9)
        random = {f"random/{kind}@{k}": k / (COUNT + 1) for kind in ("recall", "hit") for k in KS}
        assert {name: found[domain][name] for name in random} == pytest.approx(random)
        counts = {name: found[domain][name] for name in ("users", "truths", "skipped", "unrankable", "items")}
        assert counts == {
            "users": len(expected), "truths": len(expected), "skipped": oracle.skipped,
            "unrankable": oracle.unrankable, "items": len(catalogue),
        }  # fmt: skip
        assert len(expected) % module.TRUTHS and oracle.unrankable and oracle.skipped
        assert set(users.candidates.tolist()) == {COUNT + 1} and set(users.truths.tolist()) == {1}


def test_draws_are_free_items_each_as_likely() -> None:
    """Of 11 items user 0 took 0 and 4 earlier and 5 and 10 now, user 1 nothing earlier and 3 now, user 2 all."""
    n = 11
    truths = np.array([5, 10, n + 3, 2 * n + 1])
    taken = np.array([0, 4, *(2 * n + item for item in range(n) if item != 1)])
    asked = Asked(truths, taken, np.zeros(3, dtype=np.int64))
    names = names_of(asked, np.array([20, 30, 40]), items=n)
    assert names.tolist() == [225, 230, 333, 441]
    free = module._Free(asked, n)
    row, place = np.divmod(truths, n)
    drawn = free.draw(row, place, uniforms(names, 5000, seed=1).T)
    lacking = [{1, 2, 3, 6, 7, 8, 9}] * 2 + [set(range(n)) - {3}, {1}]
    for values, allowed in zip(drawn, lacking, strict=True):
        kinds, counts = np.unique(values, return_counts=True)
        assert set(kinds.tolist()) == allowed
        assert len(kinds) == 1 or stats.chisquare(counts).pvalue > 1e-4
    assert not np.array_equal(drawn[0], drawn[1]), "truths of a user have draws of their own"
    ends = free.draw(row[:1], place[:1], np.array([[0.0, 1 - 2**-53]]))
    assert ends.tolist() == [[1, 9]]


@pytest.mark.parametrize("truths", [1, 2, 9])
def test_items_of_one_vector_tie_wherever_they_are(truths: int) -> None:
    """The scores of equal vectors are equal to the last bit."""
    n, dim = 120, 64
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(1, dim, generator=generator).expand(n, dim).contiguous()
    users = torch.randn(truths, dim, generator=generator)
    asked = Asked(np.arange(truths) * n + 7, np.zeros(0, dtype=np.int64), np.zeros(truths, dtype=np.int64))
    above, tied = sampled_standing(
        asked, users, items_ND=items, items=n, name=names_of(asked, np.arange(truths), items=n), count=100, seed=0,
        scores=inner_products,
    )  # fmt: skip
    assert above.tolist() == [0] * truths and tied.tolist() == [101] * truths


def test_constant_scores_reach_the_random_level(tmp_path: Path) -> None:
    found = rank(**asking(write_log(str(tmp_path / "log"), random_log(5)), constant=True))
    for domain in DOMAINS:
        own = {name: value for name, value in found[domain].items() if "@" in name and not name.startswith("random/")}
        assert len(own) == 15 and own == {name: found[domain][f"random/{name}"] for name in own}
        assert own["recall@10"] == pytest.approx(10 / 41)


def test_a_user_who_took_every_item_is_at_the_random_level(tmp_path: Path) -> None:
    """Nothing is left to be drawn for user 1, who took some items before and the rest now; user 2 has a choice."""
    log = [Row("train", "books", 3, item) for item in range(1, 13)]
    log += [Row("train", "books", 1, item) for item in range(1, 9)] + [Row("test", "books", 1, i) for i in range(9, 13)]
    log += [Row("test", "books", 2, 5)]
    arguments = asking(write_log(str(tmp_path / "log"), log), count=20)
    users, found = rank_users(**arguments)["books"], rank(**arguments)["books"]
    assert len(users.user_key) == 5
    assert users.metrics["recall@3"][:4] == pytest.approx([3 / 21] * 4)
    assert found["random/recall@3"] == pytest.approx(3 / 21)
    assert users.metrics["recall@3"][4] != pytest.approx(3 / 21)


def _ranked(dataset: Dataset, spread: int) -> tuple[Any, Any]:
    ranking.SPREAD, ranking.HELD, module.TRUTHS = spread, 2, 8
    rank_, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    method, _ = build(dataset)
    config = TablesConfig(placement="row_wise")
    tables = build_tables(method.tables(), method.stages(), config=config, device=CPU, seed=7)
    source = Source(dataset, DataConfig(path=dataset.path, batch=16), seed=3, rank=rank_, world=world)
    arguments = {"source": source, "slice_": Slice(split="test"), "device": CPU}
    config_ = EvalConfig(ks=KS, sampled=COUNT)
    users = rank_users(method, tables, **arguments, config=config_)
    keys = {name: entry.user_key.tolist() for name, entry in users.items()}
    return rank(method, tables, **arguments, config=config_), keys


@pytest.mark.parametrize("spread", [7, 1])
def test_two_processes_find_what_one_does(spread: int, tmp_path: Path) -> None:
    """To the last digit; with one block of users the second process has none of its own."""
    dataset = write_log(str(tmp_path / "log"), random_log(4))
    (one, keys), (again, _) = in_group(1, _ranked, dataset, spread)[0], in_group(1, _ranked, dataset, spread + 1)[0]
    assert again == one and one["books"]["truths"] == 49
    two = in_group(2, _ranked, dataset, spread)
    assert [figures for figures, _ in two] == [one, one]
    assert two[0][1] == keys and two[1][1] == {}


def test_runs_keep_a_row_a_truth_and_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(catalog.INDEX, "factors", "support.retrieval:Factors")
    log = random_log(6)
    write_log(str(tmp_path / "log"), log)
    runs, whole = list[str](), dict[str, list[list[float]]]()
    for name, sampled, scale in (("a", COUNT, 0.1), ("b", COUNT, 2.0), ("lists", 0, 0.1)):
        job = {
            "name": name,
            "data": {"path": str(tmp_path / "log"), "batch": 64},
            "method": {"name": "factors", "scale": scale},
            "train": {"epochs": 1, "threads": 1, "save_minutes": 0, "monitor": "ndcg@5"},
            "eval": {"ks": [5], "sampled": sampled},
        }
        run, metrics = train_here(Job.model_validate(job), str(tmp_path / "runs"))
        runs.append(run)
        kept = pq.read_table(Path(run) / "lanes" / "main" / "users.parquet")
        by_domain = defaultdict[str, list[float]](list)
        for domain, value in zip(kept["domain"].to_pylist(), kept["ndcg@5"].to_pylist(), strict=True):
            by_domain[domain].append(value)
        for domain in DOMAINS:
            oracle = Oracle(log, "test", domain, (5,))
            truths = sum(len(oracle.lists[user][1]) for user in oracle.users())
            assert len(by_domain[domain]) == (truths if sampled else len(oracle.users()))
            assert metrics["test"][domain]["ndcg@5"] == pytest.approx(np.mean(by_domain[domain]), rel=1e-12)
            whole.setdefault(domain, []).append(by_domain[domain])
    capsys.readouterr()
    arguments = ("compare", runs[0], "--against", runs[1], "--metrics", "ndcg@5", "--format", "json")
    assert mdr(monkeypatch, *arguments) == 0
    gains = json.loads(capsys.readouterr().out)["gains"][runs[0]]["ndcg@5"]
    for domain in DOMAINS:
        ours, theirs = (np.array(values) for values in whole[domain][:2])
        assert gains[domain]["users"] == len(ours)
        assert gains[domain]["difference"] == pytest.approx((ours - theirs).mean(), abs=1e-12)
    line = refused(monkeypatch, capsys, "compare", runs[0], "--against", runs[2], "--metrics", "ndcg@5")
    assert "measured on different users or domains; nothing can be paired" in line
