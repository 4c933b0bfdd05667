"""Interactions that drift: what is on disk and in the report against what was planted, by plain arithmetic."""

from __future__ import annotations

import filecmp
import itertools
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mdr_dist.data.inspect import inspect
from mdr_dist.data.layout import read_schema, read_shards
from mdr_dist.data.synthetic import DriftConfig, configure, drift, drifting, sampled, synthesize
from mdr_dist.data.synthetic.drift import DriftDomain, Groups, People, walk
from mdr_dist.data.synthetic.planted import Stream, generator
from mdr_dist.errors import UserError
from mdr_dist.storage import read_json
from support.command import mdr

SMALL: dict[str, Any] = {"users": 300, "items": 200, "rows": 1800, "periods": 4}


def make(folder: Path, **settings: Any) -> tuple[str, dict[str, Any]]:
    out = str(folder / "made")
    return out, synthesize(out, DriftConfig(**{**SMALL, **settings}))


def read(out: str) -> pd.DataFrame:
    """All rows with domain, split and period."""
    return pd.concat(
        [
            pq.ParquetFile(f"{out}/{shard.path}")
            .read()
            .to_pandas()
            .assign(domain=shard.domain, split=shard.split, period=shard.period)
            for shard in read_shards(out)
        ],
        ignore_index=True,
    )


def truth_of(config: DriftConfig, domain: int = 0) -> tuple[DriftDomain, People]:
    """A domain, and the users, of one block."""
    groups = Groups.draw(config, Stream.USERS)
    users = People.draw(config, generator(config, Stream.USERS, 1), groups=groups, count=config.users)
    return DriftDomain.draw(config, domain, name=f"d{domain}"), users


def chance(truth: DriftDomain, users: People, *, period: int, user: int) -> list[float]:
    """[I] exp u(u, i), by the formula, number by number."""
    config, found = truth.config, []
    for item in range(config.items):
        stable = sum(float(p) * float(q) for p, q in zip(users.stable[user], truth.items.stable[item], strict=True))
        moving = zip(users.drifting[period][user], truth.items.drifting[period][item], strict=True)
        taste = math.sqrt(1 - config.drift) * stable / math.sqrt(config.stable_dim)
        taste += math.sqrt(config.drift) * sum(float(a) * float(b) for a, b in moving) / math.sqrt(config.drift_dim)
        liked = 1 / (1 + math.exp(-config.signal * (taste - config.bar)))
        found.append(truth.popularity[period][item] * (config.whim + (1 - config.whim) * liked))
    return found


@pytest.mark.parametrize("domains", [1, 2])
def test_a_data_set_is_what_its_schema_and_report_say(tmp_path: Path, domains: int) -> None:
    out, report = make(tmp_path, domains=domains, name="small")
    schema, rows = read_schema(out), read(out)
    assert (schema.name, schema.periods, schema.labels, len(schema.domains)) == ("small", 4, ("label",), domains)
    assert (schema["item"].rows, schema["item"].scope, schema["user"].rows) == (200 * domains + 1, "shared", 301)
    assert inspect(out)["rows"] == len(rows) == 1800 and set(rows["split"]) == {"train"} == set(schema.rows)
    assert schema.rows["train"] == rows["domain"].value_counts().to_dict()
    assert list(rows.columns)[:5] == ["user", "item", "label", "user_key", "time"]
    assert (rows["user_key"] == rows["user"]).all() and (rows["label"] == 1).all()
    assert not rows.duplicated(["user", "item"]).any()
    assert (rows["period"] == (rows["time"] - 1_577_836_800) // (7 * 86_400)).all()
    seen: dict[str, set[int]] = {"user": set(), "item": set()}
    for (period, part), told in zip(rows.groupby("period"), report["periods"], strict=True):
        assert told["period"] == period and told["rows"] == len(part) == 450
        by_domain = {name: entry["rows"] for name, entry in told["domains"].items()}
        assert by_domain == part["domain"].value_counts().to_dict()
        for word in ("user", "item"):
            now = set(part[word])
            assert (told[f"{word}s"], told[f"new_{word}s"]) == (len(now), len(now - seen[word]))
            seen[word] |= now
    assert report["first_seen"] == {word: told[f"new_{word}"] for word in ("users", "items")}
    for domain, part in rows.groupby("domain"):
        entry = report["domains"][domain]
        assert (entry["users"], entry["items"]) == (part["user"].nunique(), part["item"].nunique())
        first = 1 + 200 * int(str(domain)[1:])
        assert part["item"].between(first, first + 199).all()
    assert read_json(f"{out}/report.json") == report
    counts = pq.read_table(f"{out}/vocabulary/item.parquet").to_pandas().set_index("id")["count"]
    assert counts[counts > 0].to_dict() == rows["item"].value_counts().to_dict()


def test_nothing_is_taken_before_it_has_come_nor_by_who_has_not(tmp_path: Path) -> None:
    out, _ = make(tmp_path, late=0.5)
    truth, users = truth_of(DriftConfig(**{**SMALL, "late": 0.5}))
    rows = read(out)
    assert (truth.items.born[rows["item"] - 1] <= rows["period"]).all()
    assert (users.born[rows["user"] - 1] <= rows["period"]).all()
    assert np.bincount(truth.items.born, minlength=4)[1:].min() > 3 and abs((users.born > 0).mean() - 0.5) < 0.15


def test_users_take_breaks(tmp_path: Path) -> None:
    out, _ = make(tmp_path, active=0.4, late=0.0, rows=6000, users=400, items=400, user_spread=0.0)
    active = read(out).groupby(["user", "period"]).size().unstack(fill_value=0) > 0
    assert abs(active.to_numpy().sum() / (400 * 4) - 0.4) < 0.05
    assert (active.sum(axis=1) < 4).mean() > 0.9


def test_items_are_taken_by_their_utility() -> None:
    """Against the formula; the second item against the first one's being gone."""
    config = DriftConfig(users=2, items=20, rows=100, periods=3, late=0.3, groups=3, whim=0.05)
    truth, users = truth_of(config)
    many = 40_000
    for user in (0, 1):
        weight = np.array(chance(truth, users, period=2, user=user))
        p = weight / weight.sum()
        factors = np.repeat(users.at(2)[user : user + 1], many, axis=0)
        gone = np.arange(many) * 20 + int(p.argmax())  # everyone has the one that it likes most
        for taken, want in ((gone[:0], p), (gone, np.where(np.arange(20) == p.argmax(), 0, p))):
            rng = np.random.default_rng(3)
            got = truth.take(rng, 2, users=factors, count=np.full(many, 1), taken=taken)
            assert got[0].tolist() == list(range(many))
            assert np.bincount(got[1], minlength=20) / many == pytest.approx(want / want.sum(), abs=0.012)
        user_of, item = truth.take(np.random.default_rng(1), 2, users=factors, count=np.full(many, 2), taken=gone[:0])
        assert np.bincount(user_of).tolist() == [2] * many
        both = item.reshape(many, 2)
        assert (both[:, 0] < both[:, 1]).all()
        for i, j in itertools.combinations(range(20), 2):
            want = p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])
            assert ((both[:, 0] == i) & (both[:, 1] == j)).mean() == pytest.approx(want, abs=0.012)


def test_the_utility_is_the_formula_s() -> None:
    config = DriftConfig(**SMALL)
    truth, users = truth_of(config)
    for user, period in ((0, 0), (7, 3)):
        want = chance(truth, users, period=period, user=user)
        got = truth.utility(period, users=users.at(period)[[user]], items=np.arange(200)[None])[0]
        come = truth.items.born <= period
        assert np.exp(got) == pytest.approx(want, rel=1e-4, abs=1e-12)
        assert ((np.array(want)[~come] == 0).all() and come.sum() < 200) or period == 3


def test_what_drifts_is_a_stationary_walk() -> None:
    config = DriftConfig(memory=0.7, periods=6)
    steps = list(walk(np.random.default_rng(0), (60_000,), config))
    for lag in range(6):
        assert np.corrcoef(steps[0], steps[lag])[0, 1] == pytest.approx(0.7**lag, abs=0.015)
    assert [step.std() for step in steps] == pytest.approx([1] * 6, abs=0.015)
    assert all(step.dtype == np.float32 for step in steps)


def test_groups_explain_their_share() -> None:
    """A user is told from its factors to be of the nearest group, which is plain in so many dimensions."""
    config = DriftConfig(users=4000, groups=10, grouped=0.6, stable_dim=64, drift_dim=64, memory=0.5, periods=3)
    _, users = truth_of(config)
    groups = Groups.draw(config, Stream.USERS)
    found = []
    for own, centres in ((users.stable, groups.stable), *zip(users.drifting, groups.drifting, strict=True)):
        away = own[:, None] - np.float32(math.sqrt(0.6)) * centres[None]
        nearest = np.square(away).mean(-1).argmin(1)
        assert np.bincount(nearest, minlength=10) == pytest.approx(np.full(10, 400), abs=100)
        assert away[np.arange(4000), nearest].var() == pytest.approx(0.4, abs=0.01)
        assert own.var() == pytest.approx(1, abs=0.05)
        found.append(nearest)
    assert all((one == found[0]).all() for one in found)  # of the same group in all that it likes


def ranked(truth: DriftDomain, users: People, rows: pd.DataFrame, *, period: int, at: int) -> dict[str, float]:
    """Means over a period's rows of their places among all items that have come and that their users do not have."""
    taken = rows[rows["period"] <= period].groupby("user")["item"].apply(set)
    found: dict[str, list[float]] = {f"{word}@{k}": [] for word in ("recall", "ndcg") for k in (5, 10, 20)}
    for row in rows[rows["period"] == period].itertuples():
        scores = chance(truth, users, period=at, user=row.user - 1)
        others = [i for i in range(200) if truth.items.born[i] <= period and i + 1 not in taken[row.user]]
        place = 1 + sum(scores[i] >= scores[row.item - 1] for i in others)
        for k in (5, 10, 20):
            found[f"recall@{k}"].append(float(place <= k))
            found[f"ndcg@{k}"].append(1 / math.log2(place + 1) if place <= k else 0.0)
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_the_report_knows_the_best_possible_ranking(tmp_path: Path) -> None:
    """Of so few items all are candidates, so nothing is left to chance."""
    out, report = make(tmp_path)
    (truth, users), rows = truth_of(DriftConfig(**SMALL)), read(out)
    assert len(truth.items.born) < sampled.NEGATIVES
    for period in (0, 1, 3):
        told = report["periods"][period]["domains"]["d0"]
        assert told["measured"] == 450
        assert told["best"] == pytest.approx(ranked(truth, users, rows, period=period, at=period), abs=0.005)
        assert ("previous" in told) == (period > 0)
        if period:
            want = ranked(truth, users, rows, period=period, at=period - 1)
            assert told["previous"] == pytest.approx(want, abs=0.005)


def test_what_is_known_gets_stale_and_a_sample_tells_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"users": 600, "items": 1600, "rows": 9000, "periods": 6, "memory": 0.7, "drift": 0.5}
    whole = make(tmp_path / "1", **settings)[1]
    monkeypatch.setattr(drifting, "ROWS", 300)
    monkeypatch.setattr(drifting, "USERS", 128)
    part = make(tmp_path / "2", **settings)[1]
    for report, measured in ((whole, 1500), (part, 300)):
        told = [entry["domains"]["d0"] for entry in report["periods"]]
        assert all(measured <= entry["measured"] <= measured + 5 for entry in told)
        best, previous = (np.mean([entry[n]["recall@10"] for entry in told[1:]]) for n in ("best", "previous"))
        assert 1 > best > previous + 0.05 > 10 * 10 / 1000


def test_blocks_deal_rows_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drifting, "USERS", 80)
    out, report = make(tmp_path, rows=1801)
    rows = read(out)
    assert len(rows) == 1801 and not rows.duplicated(["user", "item"]).any()
    assert sorted(entry["rows"] for entry in report["periods"]) == [450, 450, 450, 451]
    assert {int(u - 1) // 80 for u in rows["user"]} == {0, 1, 2, 3}


def test_the_same_config_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = make(tmp_path / "1", domains=2)[0], make(tmp_path / "2", domains=2)[0]
    names = [os.path.relpath(os.path.join(at, name), first) for at, _, files in os.walk(first) for name in files]
    assert len(names) > 8 and filecmp.cmpfiles(first, second, names, shallow=False)[0] == names
    one = make(tmp_path / "3", seed=1)[0]
    assert read(one)["item"].tolist() != read(make(tmp_path / "4")[0])["item"].tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("rows=3",), "rows: 3 cannot fill 10 periods of 1 domains"),
        (("domains=1000", "items=3000000"), "more ids than int32 has"),
        (("periods=1",), "periods: Input should be greater than or equal to 2"),
        (("memory=1",), "memory: Input should be less than 1"),
        (("val=0.1",), "unknown key 'val'; known here: active, bar, domains"),
    ],
)
def test_a_bad_config_is_one_line(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as raised:
        configure("drift", settings)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"users": 5, "rows": 2000}, "rows: the most active user of domain d0 would have taken"),
        ({"users": 2, "late": 0.0, "active": 0.01, "rows": 40}, "users: none is active in period"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(tmp_path, **settings)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_items_that_are_never_met_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "ROUNDS", 3)
    config = DriftConfig(**{**SMALL, "whim": 0.001, "bar": 3.0})
    truth, users = truth_of(config)
    with pytest.raises(UserError, match="does not find the 20 items that it should have in period 1"):
        truth.take(np.random.default_rng(0), 1, users=users.at(1), count=np.full(300, 20), taken=np.zeros(0, np.int64))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ["--users", "300", "--items", "200", "--rows", "1800", "--periods", "4", "--seed", "2"]
    assert mdr(monkeypatch, "synth", tmp_path / "told", "--preset", "drift", *sizes) == 0
    made, _ = make(tmp_path, seed=2)
    pd.testing.assert_frame_equal(read(str(tmp_path / "told")), read(made))


def test_a_tie_counts_against_the_item() -> None:
    score = np.array([[1.0, *[1.0] * 5, *[0.0] * 5], [1.0, *[2.0] * 4, *[0.0] * 6]])  # places 6 and 5
    expected = [[0, 1, 1, 0, 1 / math.log2(7), 1 / math.log2(7)], [1, 1, 1, *[1 / math.log2(6)] * 3]]
    assert sampled._figures(score) == pytest.approx(np.array(expected))
