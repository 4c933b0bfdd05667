"""Users who are cold in one domain, against pandas and hashlib."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mdr_dist.config import DataConfig
from mdr_dist.data.inspect import inspect
from mdr_dist.data.source import Dataset, Source
from mdr_dist.errors import UserError
from mdr_dist.stage import Slice
from support.hashes import roles, uniform


def sparse(frame: pd.DataFrame) -> pd.DataFrame:
    """Users of one, two and three domains."""
    number = frame["user"].str[1:].astype(int)
    return frame[(number % 5 > 1) | (frame["domain"] == "d1") | ((number % 5 == 1) & (frame["domain"] == "d0"))]


@pytest.mark.parametrize("rule", [{}, {"users": 0.3, "val": 0.5, "common": 0.4}, {"val": 0.0}])
def test_who_is_held_out_goes_by_hashes_of_the_user(bench, frame, rule):
    frame = sparse(frame)
    bench.log(frame)
    bench.recipe |= {"split": {"cold_start": {"domain": "d1", **rule}}, "seed": 5}
    report = bench.run()
    found = roles(frame, rule, domain="d1", seed=5)
    told = pd.Series(found).value_counts()
    assert told["other"] > 30 and set(told.index) >= {"test", "common", "other"}
    mine = frame["user"].map(found)
    split = mine.where((frame["domain"] == "d1") & mine.isin(["val", "test"]), "train")
    stays = mine != "uncommon"
    assert report["rows"]["uncommon"] == (~stays).sum() and (~stays).any() == ("common" in rule)
    got = bench.rows()[["time", "domain", "split"]].sort_values("time", ignore_index=True)
    want = frame.assign(split=split)[stays][["time", "domain", "split"]].sort_values("time", ignore_index=True)
    pd.testing.assert_frame_equal(got, want, check_dtype=False)
    assert set(got["split"]) == ({"train", "test"} if rule.get("val") == 0 else {"train", "val", "test"})
    held = set(frame[split != "train"]["user"])
    assert held and held == set(frame[(split == "train") & mine.isin(["val", "test"])]["user"])  # known from elsewhere


def test_users_in_common_are_counted_after_all_that_drops_rows(bench, frame):
    """With only d0 and d1 kept, users of d1 and d2 have nothing to come from; a core drops the rare ones first."""
    bench.log(frame)
    bench.recipe |= {"split": {"cold_start": {"domain": "d1"}}, "core": {"user": 4}}
    bench.recipe["domain"]["keep"] = ["d1", "d0"]
    bench.run()
    kept = frame[frame["domain"] != "d2"]
    size = kept.groupby(["domain", "user"])["item"].transform("size")
    kept = kept[size >= 4]
    want = kept["user"].map(roles(kept, {}, domain="d1")).where(kept["domain"] == "d1", "train")
    held = want[want.isin(["val", "test"])]
    got = bench.rows().set_index("time")["split"]
    assert {kept["time"][row]: split for row, split in held.items()} == got[got != "train"].to_dict()
    assert 0 < len(held) < len(kept) == len(got)


def test_leaks_and_relevance_go_with_it(bench, frame):
    cold = [user for user in frame["user"].unique() if uniform(0, "cold", user) < 0.5]
    again = frame[(frame["domain"] == "d1") & frame["user"].isin(cold)].sample(60, random_state=0)
    again = again.assign(domain="d0", time=lambda rows: rows["time"] + 7)
    both = pd.concat([frame, again]).drop_duplicates(["user", "item", "domain"])
    bench.log(both)
    bench.recipe["split"] = {"cold_start": {"domain": "d1"}, "drop_leaks": True, "relevant": "rating > 2"}
    report = bench.run()
    found = roles(both, {}, domain="d1")
    held = (both["domain"] == "d1") & both["user"].map(found).isin(["val", "test"])
    pairs = set(map(tuple, both[held][["user", "item"]].to_numpy()))
    leak = ~held & pd.Series([pair in pairs for pair in zip(both["user"], both["item"], strict=True)], index=both.index)
    idle = held & (both["rating"] <= 2)
    assert report["rows"]["leaked"] == leak.sum() >= 30 and report["rows"]["irrelevant"] == idle.sum() > 100
    assert sorted(bench.rows()["time"]) == sorted(both[~leak & ~idle]["time"])


def test_nothing_depends_on_the_order_of_rows(bench, frame):
    bench.recipe["split"] = {"cold_start": {"domain": "d2", "common": 0.5}}
    bench.log(frame)
    bench.run()
    first = bench.rows()
    bench.log(frame.sample(frac=1, random_state=1))
    bench.run()
    pd.testing.assert_frame_equal(first, bench.rows())


def few(bench, users: dict[str, str]) -> None:
    rows = [f"{user},i{place},{domain},5,{place}" for user in users for place, domain in enumerate(users[user])]
    bench.file("log.csv", "user,item,domain,rating,time\n" + "\n".join(rows) + "\n")
    bench.recipe["split"] = {"cold_start": {"domain": "b"}}


def test_no_user_in_common(bench):
    few(bench, {"u0": "a", "u1": "b", "u2": "ac"})
    told = "split.cold_start: no user has rows in 'b' and in another domain; cold-start transfer needs users in common"
    assert told in bench.fails()


def test_a_role_without_users(bench):
    names = [f"u{n}" for n in range(400)]
    cold = [name for name in names if uniform(0, "cold", name) < 0.5]
    warm = sorted(set(names) - set(cold))
    tests = [name for name in cold if uniform(0, "cold val", name) >= 0.4]
    few(bench, dict.fromkeys(cold[:9], "ab"))
    told = "of 9 users who have rows in 'b' and in another domain none is left for common; choose other shares (users"
    assert told in bench.fails()
    few(bench, dict.fromkeys(warm[:9], "ab"))
    assert "none is left for test" in bench.fails()
    few(bench, dict.fromkeys([*warm[:2], *tests[:2]], "ab"))
    assert "none is left for val" in bench.fails()
    bench.recipe["split"]["cold_start"]["val"] = 0
    assert bench.run()["domains"]["b"]["rows"] == {"train": 2, "test": 2}


def test_a_domain_that_no_row_is_left_to_train(bench):
    names = [f"u{n}" for n in range(40)]
    few(bench, {**dict.fromkeys(names, "ab"), "late": "c"})
    bench.recipe["split"]["relevant"] = "rating > 5"
    assert "domain 'b' has no rows in split 'val'" in bench.fails()


def test_batches_of_a_data_set_with_one_domain_held_out(bench, frame):
    bench.log(frame)
    bench.recipe["split"] = {"cold_start": {"domain": "d1"}}
    report = bench.run()
    assert inspect(bench.out)["rows"] == report["rows"]["written"]
    for domains in ((), ("d1", "d2")):
        source = Source(Dataset.open(bench.out), DataConfig(path=bench.out, batch=16, domains=domains), seed=0)
        for split in ("val", "test"):
            number = source.dataset.schema.domain_index("d1")
            assert source.domains(Slice(split=split)) == (number,)
            assert source.rows(Slice(split=split)) == report["domains"]["d1"]["rows"][split]
            batches = list(source.sweep(Slice(split=split)))
            assert sum(int((batch.weight > 0).sum()) for batch in batches) == report["domains"]["d1"]["rows"][split]
        assert len(source.domains(Slice())) == (len(domains) or 3)
    other = Source(Dataset.open(bench.out), DataConfig(path=bench.out, batch=16, domains=("d0", "d2")), seed=0)
    with pytest.raises(UserError, match=r"domain d[02] has no rows in split val"):
        other.rows(Slice(split="val"))
    assert not Path(bench.out, "domain=d0", "split=val").exists()
