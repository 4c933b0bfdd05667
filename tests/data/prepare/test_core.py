"""The k-core, against a program that drops one user or item at a time."""

from __future__ import annotations

import pandas as pd


def core(frame: pd.DataFrame, user: int, item: int) -> pd.DataFrame:
    while True:
        for column, least in (("user", user), ("item", item)):
            sizes = frame.groupby(["domain", column]).size()
            rare = sizes[sizes < least]
            if len(rare):
                domain, key = rare.index[0]
                frame = frame[~((frame["domain"] == domain) & (frame[column] == key))]
                break
        else:
            return frame


def test_every_user_and_item_left_has_enough_rows(bench, frame):
    bench.log(frame)
    everything = bench.run()["rows"]["written"]
    sizes = frame.groupby(["domain", "user"]).size(), frame.groupby(["domain", "item"]).size()
    user, item = (int(each.quantile(0.3)) + 1 for each in sizes)
    bench.recipe["core"] = {"user": user, "item": item}
    report = bench.run()
    want = core(frame, user, item)
    assert 0 < len(want) < everything
    assert report["rows"]["rare"] == everything - len(want)
    keys = ["user", "item", "domain", "time"]
    got = bench.decoded().sort_values(keys, ignore_index=True)[keys]
    pd.testing.assert_frame_equal(got, want.sort_values(keys, ignore_index=True)[keys], check_dtype=False)


def test_a_core_that_is_empty(bench, frame):
    bench.log(frame)
    bench.recipe["core"] = {"user": 10_000}
    assert "core: no user has 10000 rows with items of 1; ask for fewer" in bench.fails()
