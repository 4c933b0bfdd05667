"""Ranking by a method's own scores of pairs, against whole tables of scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdr_dist.config import DataConfig, EvalConfig, TablesConfig
from mdr_dist.data.reader import Dataset
from mdr_dist.data.source import Source
from mdr_dist.eval import ranking as module
from mdr_dist.eval.ranking import rank
from mdr_dist.eval.scores import Scores
from mdr_dist.stage import Slice
from mdr_dist.tables import PlainTables
from support.groups import in_group
from support.retrieval import DOMAINS, Distances, Factors, FactorsConfig, Oracle, Row, schema_of, scores_of, write_log

CPU = torch.device("cpu")
KS = (1, 3, 10)
LAST = 49  # the user of the highest key


def random_log(seed: int) -> list[Row]:
    rng, log = np.random.default_rng(seed), [Row("test", "books", LAST, 5)]
    for split, rows in (("train", 2000), ("test", 500)):
        for domain in DOMAINS:
            user, item = rng.integers(1, LAST, rows), np.minimum(rng.zipf(1.3, rows) - 1, 280)
            log += [Row(split, domain, *found) for found in zip(user.tolist(), item.tolist(), strict=True)]
    return log


def build(dataset: Dataset, *, kind: type[Factors] = Distances, **config: Any) -> tuple[Factors, PlainTables]:
    method = kind(FactorsConfig(**config), dataset.schema)
    return method, PlainTables.build(method.tables(), method.stages(), config=TablesConfig(), device=CPU, seed=7)


def ranked(
    dataset: Dataset, made: tuple[Factors, PlainTables], *, sampled: int = 0, **places: int
) -> dict[str, dict[str, Any]]:
    """Several blocks of users and of items, and several passes over the items."""
    source = Source(dataset, DataConfig(path=dataset.path, batch=16), seed=3, **places)
    config = EvalConfig(ks=KS, sampled=sampled)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ITEMS": 64, "USERS": 8, "HELD": 3}.items():
            patch.setattr(module, name, value)
        return rank(*made, source=source, slice_=Slice(split="test"), config=config, device=CPU)


@pytest.mark.parametrize("levels", [0, 1, 2, 4])
def test_figures_are_those_of_whole_tables(levels: int, tmp_path: Path) -> None:
    dataset = write_log(str(tmp_path / "log"), log := random_log(levels))
    method, tables = made = build(dataset, levels=levels)
    found = ranked(dataset, made)
    whole = {name: tables.state()[f"{name}/weight"] for name in ("user", "item", "tags")}
    for number, domain in enumerate(DOMAINS):
        expected = Oracle(log, "test", domain, KS).means(scores_of(method, whole, number))
        assert {name: found[domain][name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert found["films"]["recall@10"] != ranked(dataset, build(dataset, kind=Factors))["films"]["recall@10"]


@pytest.mark.parametrize("sampled", [0, 20])
def test_equal_scores_are_at_the_random_level(sampled: int, tmp_path: Path) -> None:
    dataset = write_log(str(tmp_path / "log"), random_log(5))
    for found in list(ranked(dataset, build(dataset, constant=True), sampled=sampled).values())[:2]:
        assert all(found[name] == found[f"random/{name}"] for name in ("recall@10", "ndcg@3", "mrr@10"))


@pytest.mark.parametrize("bad", [math.nan, 1e30])
@pytest.mark.parametrize("sampled", [0, 20])
def test_what_is_no_number_is_refused(bad: float, sampled: int, tmp_path: Path) -> None:
    method, tables = build(dataset := write_log(str(tmp_path / "log"), random_log(1)))
    tables.state()["user/weight"][LAST, 3] = bad
    with pytest.raises(
        FloatingPointError, match=r"Distances\.pair_scores, domain books: a score has the size (nan|inf)"
    ):
        ranked(dataset, (method, tables), sampled=sampled)


def test_long_vectors_are_no_fault_of_a_methods_own_scores(tmp_path: Path) -> None:
    """Their inner products would overflow."""

    class Bounded(Distances):
        def pair_scores(self, user_RD: torch.Tensor, item_ND: torch.Tensor, *, domain: int) -> torch.Tensor:
            return super().pair_scores(user_RD.sign(), item_ND.sign(), domain=domain)

    dataset = write_log(str(tmp_path / "log"), random_log(1))
    assert ranked(dataset, build(dataset, kind=Bounded, scale=1e25))["books"]["users"] > 0
    with pytest.raises(FloatingPointError, match=r"Factors\.user_vector, domain books: a vector has the length"):
        ranked(dataset, build(dataset, kind=Factors, scale=1e25))


def test_scores_of_another_shape_are_refused() -> None:
    class Flat(Distances):
        def pair_scores(self, user_RD: torch.Tensor, item_ND: torch.Tensor, *, domain: int) -> torch.Tensor:
            return super().pair_scores(user_RD, item_ND, domain=domain)[..., :1]

    scores = Scores(Flat(FactorsConfig(), schema_of()), 0, device=CPU)
    with pytest.raises(ValueError, match=r"Flat\.pair_scores: \[8, 64\] is needed, got \[8, 1\]"):
        scores.block(torch.ones(8, 9), torch.ones(64, 8), out=torch.empty(8, 64))


def test_which_methods_rank_by_inner_product() -> None:
    config, schema = FactorsConfig(), schema_of()
    method = Factors(config, schema)
    assert method.inner_product and not Distances(config, schema).inner_product
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(5, 8, generator=generator), torch.randn(7, 8, generator=generator)
    assert method.pair_scores(users, items, domain=1).numpy() == pytest.approx(
        users.numpy() @ items.numpy().T, rel=1e-5
    )


def _ranked_together(dataset: Dataset) -> tuple[Any, list[str]]:
    """Figures, and what is said where the last user alone, for whom one process ranks, has no numbers for scores."""
    module.SPREAD = 7
    rank_, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    method, tables = made = build(dataset)
    found, said = ranked(dataset, made, rank=rank_, world=world), list[str]()
    tables.state()["user/weight"][LAST] = math.nan
    for sampled in (0, 20):
        with pytest.raises(FloatingPointError) as refused:
            ranked(dataset, (method, tables), sampled=sampled, rank=rank_, world=world)
        said.append(str(refused.value))
    return found, said


def test_two_processes_find_and_refuse_what_one_does(tmp_path: Path) -> None:
    dataset = write_log(str(tmp_path / "log"), random_log(4))
    one = in_group(1, _ranked_together, dataset)[0]
    assert one[1] == ["Distances.pair_scores, domain books: a score has the size nan, by which nothing ranks"] * 2
    assert in_group(2, _ranked_together, dataset) == [one, one]
