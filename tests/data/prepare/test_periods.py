"""What the report says of periods, against pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

DAY = 86_400


def dated(frame: pd.DataFrame, days: int) -> pd.DataFrame:
    """The rows in order, spread over so many days from 1970 on; items come and go."""
    day = np.arange(len(frame)) * days // len(frame)
    item = "i" + (day // 20 * 10 + frame["item"].str[1:].astype(int) % 40).astype(str)
    return frame.assign(time=day * DAY + np.arange(len(frame)) % DAY, item=item).drop_duplicates(
        ["user", "item", "domain"]
    )


@pytest.mark.parametrize("cut", [{"count": 4}, {"starts": ["1970-02-01", "1970-02-11T12:00:00", "1970-03-15"]}])
def test_the_report_tells_each_period(bench, frame, cut):
    frame = dated(frame, 100)
    bench.recipe |= {"periods": cut, "negatives": {"train": 1}}
    bench.log(frame)
    report, rows = bench.run(), bench.decoded()
    assert set(rows["split"]) == {"train"} and report["rows"]["negatives"] > 100
    log = rows[["time", "period"]].drop_duplicates().merge(frame, on="time", validate="1:1")
    assert len(log) == len(frame)
    seen: dict[str, set[str]] = {"user": set(), "item": set()}
    for (number, part), told in zip(log.groupby("period"), report["periods"], strict=True):
        assert told["period"] == number and told["rows"] == len(part)
        assert told["domains"] == part["domain"].value_counts().to_dict()
        for role in ("user", "item"):
            now = set(part[role])
            assert told[f"{role}s"] == len(now) and told[f"new_{role}s"] == len(now - seen[role])
            seen[role] |= now
        begin, end = (pd.Timestamp(told[bound]).timestamp() for bound in ("from", "to"))
        last = number == len(report["periods"]) - 1
        assert part["time"].min() >= begin and (part["time"].max() == end if last else part["time"].max() < end)
    assert report["periods"][0]["from"] == pd.Timestamp(frame["time"].min(), unit="s").isoformat()
    assert report["first_seen"] == {"users": told["new_users"], "items": told["new_items"]}
    assert report["first_seen"]["items"] > 0
    if "starts" in cut:
        assert [period["from"] for period in report["periods"][1:]] == [
            "1970-02-01T00:00:00",
            "1970-02-11T12:00:00",
            "1970-03-15T00:00:00",
        ]


def test_no_periods_no_report_of_them(bench, frame):
    bench.log(frame)
    report = bench.run()
    assert "periods" not in report and "first_seen" not in report


@pytest.mark.parametrize(
    ("starts", "named"),
    [
        (["1969-01-01", "1970-02-01"], "period 0 (to 1969-01-01T00:00:00) has no rows"),
        (["1970-02-01", "1970-02-02"], "period 1 (from 1970-02-01T00:00:00 to 1970-02-02T00:00:00) has no rows"),
        (["1970-02-01", "1975-02-02"], "period 2 (from 1975-02-02T00:00:00) has no rows"),
    ],
)
def test_a_period_without_rows_is_named(bench, frame, starts, named):
    frame = dated(frame, 100)
    bench.log(frame[(frame["time"] < 31 * DAY) | (frame["time"] >= 40 * DAY)])
    bench.recipe["periods"] = {"starts": starts}
    assert named in bench.fails()
