"""Planted reviews: what is on disk."""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mdr_dist.data.inspect import inspect
from mdr_dist.data.layout import read_schema
from mdr_dist.data.synthetic import choice, configure, reviewing
from mdr_dist.errors import UserError
from mdr_dist.storage import read_json
from support.command import mdr
from support.reviewed import column, make, read

SPLITS = ("train", "val", "test")


def users(out: str, domain: str, split: str) -> set[int]:
    return set(column(read(out, domain, split), "user").tolist())


def files(folder: str) -> list[str]:
    return sorted(os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names)


def test_a_data_set_is_what_its_schema_says(tmp_path: Path) -> None:
    out, report = make(tmp_path, name="small", document=25, length=20, aspects=3, words=4, fillers=50)
    schema = read_schema(out)
    assert (schema.name, schema.domains) == ("small", ("a", "b"))
    assert (schema.labels, schema.truth) == (("rating", "truth"), "truth")
    assert (schema["user"].rows, schema["item"].rows, schema["item"].starts) == (201, 182, (0, 101))
    count = 1 + 50 + 3 * 2 * 3 * 4
    review = schema["review"]
    assert (review.kind, review.rows, review.width, review.vocabulary) == ("text", count, 25, "review")
    assert [schema.rows[split]["a"] for split in SPLITS] == [1600, 0, 0]
    assert sum(schema.rows[split]["b"] for split in SPLITS) == 1200
    counts = np.zeros(count, int)
    for domain, first, items in (("a", 1, 100), ("b", 102, 80)):
        pairs = []
        for split in SPLITS if domain == "b" else SPLITS[:1]:
            rows = read(out, domain, split)
            assert rows.num_rows == schema.rows[split][domain] == report["domains"][domain]["rows"][split]
            assert set(column(rows, "rating")) == {1, 2, 3, 4, 5}
            assert column(rows, "truth").min() >= 1 and column(rows, "truth").max() <= 5
            assert (column(rows, "user_key") == column(rows, "user")).all()
            pairs += list(zip(column(rows, "user").tolist(), column(rows, "item").tolist(), strict=True))
            texts = rows["review"].to_pylist()
            assert {len(text) for text in texts} <= set(range(1, 26)) and max(map(len, texts)) == 25
            words = np.concatenate(texts)
            assert words.min() >= 1 and words.max() < count
            if split == "train":
                counts += np.bincount(words, minlength=count)
                entry = report["domains"][domain]
                assert entry["users"] == len(users(out, domain, "train"))
                assert entry["items"] == len(set(column(rows, "item").tolist()))
                assert entry["rating_mean"]["train"] == pytest.approx(column(rows, "rating").mean())
        assert len(set(pairs)) == len(pairs)
        assert {first <= item < first + items for _, item in pairs} == {True}
    assert read_json(f"{out}/report.json") == report
    vocabulary = pq.read_table(f"{out}/vocabulary/review.parquet").to_pydict()
    assert vocabulary["id"] == list(range(count)) and vocabulary["count"] == counts.tolist()
    keys = vocabulary["key"]
    assert keys[:2] == ["", "filler-0"] and len(set(keys)) == count
    assert {"filler-49", "aspect2-good-3", "a-aspect0-bad-0", "b-aspect1-good-2"} < set(keys)
    assert set(schema.digests) == {"user", "item", "review"}
    assert inspect(out)["rows"] == 2800


def test_cold_users_have_held_out_rows_alone_in_the_target(tmp_path: Path) -> None:
    out, report = make(tmp_path, overlap=0.75, cold=0.4, val=0.25)
    source, (train, val, test) = users(out, "a", "train"), (users(out, "b", split) for split in SPLITS)
    assert (len(val), len(test)) == (15, 45)  # of 150 in both domains, 60 start cold
    assert not train & val and not train & test and not val & test
    assert val | test <= source and len(source & train) == 90
    assert len(source | train) == 200 and len(source) + len(train) - 90 == 200
    assert report["overlap"] == [[len(source), 90], [90, len(train)]]
    assert report["domains"]["b"]["users_held_out"] == {"val": 15, "test": 45}
    assert report["domains"]["a"]["users_held_out"] == {"val": 0, "test": 0}


def test_the_same_config_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = make(tmp_path / "1")[0], make(tmp_path / "2")[0]
    names = files(first)
    assert names == files(second)
    assert filecmp.cmpfiles(first, second, names, shallow=False)[0] == names
    assert not read(make(tmp_path / "3", seed=1)[0], "a", "train").equals(read(first, "a", "train"))
    target = make(tmp_path / "4", items=(100, 70), conflict=0.9, mixing=0.1)[0]
    assert not read(target, "b", "train").equals(read(first, "b", "train"))
    assert read(target, "a", "train").equals(read(first, "a", "train"))


def test_blocks_and_pieces_hold_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make(tmp_path / "1")[0]
    monkeypatch.setattr(choice, "BLOCK", 300)
    monkeypatch.setattr(reviewing, "PIECE", 17)
    parts, report = make(tmp_path / "2")
    for domain, split in (("a", "train"), *(("b", split) for split in SPLITS)):
        one, two = (Counter(column(read(out, domain, split), "user").tolist()) for out in (whole, parts))
        assert one == two
        assert report["domains"][domain]["rows"][split] == sum(one.values())
    order = column(read(parts, "a", "train"), "user")
    assert abs(np.corrcoef(np.arange(300), order[:300])[0, 1]) < 0.3  # a block is shuffled


# what is wrong with the question


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("domains=[x,x]",), "domains: give each a name of its own"),
        (("domains=[a,b,c]",), "domains"),
        (("items=[600]",), "items"),
        (("overlap=0",), "overlap: Input should be greater than 0"),
        (("users=3",), "users: of 3, none who is in both domains has target rows in the val split"),
        (("cold=0.9999",), "users: of 2000, none who is in both domains has target rows in the train split"),
        (("users=20000",), "interactions: domain source has 16000 for 20000 users; use one a user"),
        (("items=[7,600]",), "interactions: domain source has 16000, more than 2000 users can have of 7 items"),
        (("items=[2000000000,2000000000]",), "more ids than int32 has"),
        (("noise=0",), "noise: Input should be greater than or equal to 0.01"),
        (("rows=5",), "unknown key 'rows'; known here: aspects, base"),
    ],
)
def test_a_bad_config_is_one_line(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as raised:
        configure("reviews", settings)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_user_who_would_rate_most_items_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"most active user of domain a would take \d+ of its 100 items, over half"):
        make(tmp_path, user_zipf=1.5)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--users", 100, "--set", "interactions=[500,400]", "--seed", 4)
    assert mdr(monkeypatch, "synth", tmp_path / "told", "--preset", "reviews", *sizes) == 0
    assert "reviews: rows by domain and split" in capsys.readouterr().out
    assert read_json(f"{tmp_path}/told/report.json")["config"]["seed"] == 4
