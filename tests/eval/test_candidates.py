"""Who is offered what in a period: by sets, of the rows of the period and of those before it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mdr_dist.config import DataConfig, EvalConfig, TablesConfig
from mdr_dist.data.source import Source
from mdr_dist.errors import UserError
from mdr_dist.eval.candidates import Candidates, check_catalogue
from mdr_dist.eval.ranking import rank
from mdr_dist.stage import Slice
from mdr_dist.tables import PlainTables
from support.retrieval import DOMAINS, KEY, Factors, FactorsConfig, Oracle, Row, periodic_log, scores_of, write_log

CPU, KS = torch.device("cpu"), (1, 5)


@pytest.fixture
def log() -> list[Row]:
    rows = periodic_log(3, periods=4)
    # user 7 takes an item again, meets the default row, and has new items
    return [*rows, *(Row("train", "books", 7, item, 1.0, period) for period in (1, 2) for item in (0, 3, 20 + period))]


def of(path: Path, log: list[Row]) -> Source:
    dataset = write_log(str(path / "log"), log)
    return Source(dataset, DataConfig(path=dataset.path, batch=16), seed=3)


@pytest.mark.parametrize("period", [0, 1, 2, 3])
@pytest.mark.parametrize("domain", [0, 1])
def test_a_period_s_users_choose_among_what_was_seen_and_not_taken_before(
    period: int, domain: int, log: list[Row], tmp_path: Path
) -> None:
    source = of(tmp_path, log)
    found = Candidates(source, Slice(period=period), domain=domain, config=EvalConfig(ks=KS))
    own = [row for row in log if row.domain == DOMAINS[domain]]
    items = sorted({row.item for row in own if row.period <= period} - {0})
    assert found.items == len(items)
    positive = [row for row in own if row.label > 0.5]
    users = sorted({row.user for row in positive if row.period == period})
    assert found.user_key.tolist() == [KEY * user for user in users]
    asked = found.ask(found.user_key)
    for at, user in enumerate(users):
        before = {row.item for row in positive if row.user == user and row.period < period} - {0}
        now = {row.item for row in positive if row.user == user and row.period == period}
        taken = {items[code - at * len(items)] for code in asked.taken if code // len(items) == at}
        truths = {items[code - at * len(items)] for code in asked.truths if code // len(items) == at}
        assert taken == before and truths == now - before - {0}
        assert int(asked.unrankable[at]) == len(now & (before | {0}))
    assert period == 0 or (len(asked.taken) > 50 and asked.unrankable.sum() > 0)


@pytest.mark.parametrize("period", [1, 3])
def test_figures_of_a_period_are_the_oracles(period: int, log: list[Row], tmp_path: Path) -> None:
    """For whom a period is the test split, and the items of its rows are seen, though nobody took them."""
    source = of(tmp_path, log)
    method = Factors(FactorsConfig(levels=2), source.dataset.schema)
    tables = PlainTables.build(method.tables(), method.stages(), config=TablesConfig(), device=CPU, seed=7)
    slice_, config = Slice(period=period), EvalConfig(ks=KS)
    found = rank(method, tables, source=source, slice_=slice_, config=config, device=CPU)
    split = [row for row in log if row.period < period]
    for row in (row for row in log if row.period == period):
        split += [row._replace(label=0.0), row._replace(split="test")]
    whole = {name: tables.state()[f"{name}/weight"] for name in ("user", "item", "tags")}
    for number, domain in enumerate(DOMAINS):
        oracle = Oracle(split, "test", domain, KS)
        means = oracle.means(scores_of(method, whole, number))
        assert {name: found[domain][name] for name in means} == pytest.approx(means, abs=1e-9)
        assert (found[domain]["users"], found[domain]["skipped"]) == (len(oracle.users()), oracle.skipped)


def test_k_beyond_what_a_period_has_seen(log: list[Row], tmp_path: Path) -> None:
    source = of(tmp_path, log)
    items = len({row.item for row in log if row.domain == "films" and row.period == 0} - {0})
    later = len({row.item for row in log if row.domain == "films"} - {0})
    assert later > items
    check_catalogue(source, Slice(period=0), domain=1, config=EvalConfig(ks=(items,)))
    check_catalogue(source, Slice(period=3), domain=1, config=EvalConfig(ks=(items + 1,)))
    with pytest.raises(UserError, match=rf"eval\.ks: {items + 1} exceeds the catalogue of domain films, {items} items"):
        check_catalogue(source, Slice(period=0), domain=1, config=EvalConfig(ks=(items + 1,)))
