"""Planted implicit feedback: what is on disk against what was planted."""

from __future__ import annotations

import filecmp
import itertools
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mdr_dist.data.layout import ROW_GROUP, read_schema, read_shards
from mdr_dist.data.synthetic import ImplicitConfig, choice, configure, synthesize
from mdr_dist.data.synthetic.choice import Choices
from mdr_dist.errors import UserError
from mdr_dist.storage import read_json
from support.retrieval import Oracle, Row

SMALL: dict[str, Any] = {"domains": ("a", "b"), "users": 300, "items": (200, 100), "interactions": (4000, 1500)}


def make(folder: Path, **settings: Any) -> tuple[str, dict[str, Any]]:
    out = str(folder / "made")
    return out, synthesize(out, ImplicitConfig(**{**SMALL, **settings}))


def read(out: str, domain: str, split: str) -> dict[str, np.ndarray]:
    """Column → numpy array of a domain's rows of a split, in order."""
    tables = [pq.read_table(f"{out}/{s.path}") for s in read_shards(out) if (s.domain, s.split) == (domain, split)]
    return {name: np.concatenate([table[name].to_numpy() for table in tables]) for name in tables[0].column_names}


def pairs(out: str, domain: str, *splits: str) -> list[tuple[int, int]]:
    """(user, item) ids of a domain's rows."""
    rows = [read(out, domain, split) for split in splits or ("train", "val", "test")]
    return [pair for part in rows for pair in zip(part["user"].tolist(), part["item"].tolist(), strict=True)]


def files(folder: str) -> list[str]:
    return sorted(os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names)


def test_a_data_set_is_what_its_schema_says(tmp_path: Path) -> None:
    out, report = make(tmp_path, val=0.2, test=0.1, name="small", scale=0.5)
    schema = read_schema(out)
    assert (schema.name, schema.domains, schema.labels) == ("small", ("a", "b"), ("label",))
    assert schema["item"].starts == (0, 201)
    assert (schema["item"].rows, schema["item"].scope, schema["user"].rows) == (302, "domain", 301)
    rows = {"train": {"a": 2000, "b": 750}, "val": {"a": 400, "b": 150}, "test": {"a": 200, "b": 75}}
    assert schema.rows == rows
    for domain, first, items in (("a", 1, 200), ("b", 202, 100)):
        assert len(set(pairs(out, domain))) == len(pairs(out, domain)) == sum(rows[s][domain] for s in rows)
        for split in rows:
            part = read(out, domain, split)
            assert set(part) == {"user", "item", "label", "user_key"}
            assert (part["item"].min(), part["user"].min()) >= (first, 1)
            assert part["item"].max() < first + items
            assert set(part["label"]) == {1.0}
            assert (part["user_key"] == part["user"]).all()
        train = read(out, domain, "train")
        entry = report["domains"][domain]
        assert entry["users"] == len(set(train["user"]))
        assert entry["items"] == len(set(train["item"]))
        assert entry["rows"] == {split: rows[split][domain] for split in rows}
        assert entry["rows_per_user"] == pytest.approx(len(train["user"]) / entry["users"], abs=1e-4)
    assert read_json(f"{out}/report.json") == report
    item = pq.read_table(f"{out}/vocabulary/item.parquet").to_pydict()
    assert item["key"] == [f"i{n}" for n in range(1, 201)] + [f"i{n}" for n in range(1, 101)]
    assert item["domain"] == ["a"] * 200 + ["b"] * 100
    assert item["id"] == [*range(1, 201), *range(202, 302)]
    seen = np.concatenate([read(out, domain, "train")["item"] for domain in ("a", "b")])
    assert item["count"] == np.bincount(seen, minlength=302)[item["id"]].tolist()


def test_blocks_cut_splits_exactly_and_change_no_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Counter(user for user, _ in pairs(make(tmp_path / "1")[0], "a"))
    monkeypatch.setattr(choice, "BLOCK", 333)
    out, _ = make(tmp_path / "2", users=300)
    truth = Choices(ImplicitConfig(**SMALL)).domain(0)
    blocks = list(truth.blocks())
    assert [b.number for b in blocks] == list(range(4800 // 333))
    assert (blocks[0].first, blocks[-1].last, blocks[-1].stop) == (0, 300, 4800)
    assert all(one.last == two.first and one.stop == two.start for one, two in itertools.pairwise(blocks))
    assert all(b.stop - b.start == truth.count[b.first : b.last].sum() for b in blocks)
    assert Counter(user for user, _ in pairs(out, "a")) == whole
    assert [len(pairs(out, "a", split)) for split in ("train", "val", "test")] == [4000, 400, 400]
    assert len(set(pairs(out, "a"))) == 4800


def test_rows_are_shuffled_and_splits_are_even(tmp_path: Path) -> None:
    out, _ = make(tmp_path, users=4000, items=(400, 400), interactions=(2 * ROW_GROUP, 100), test=0.5, user_zipf=0)
    user, tested = read(out, "a", "train")["user"], read(out, "a", "test")["user"]
    for group in user.reshape(2, -1):  # both row groups have every user, none in order
        assert len(set(group)) > 3900
        assert abs(np.corrcoef(np.arange(ROW_GROUP), group)[0, 1]) < 0.02
    share = np.bincount(tested, minlength=4001)[1:] / np.bincount(np.concatenate([user, tested]), minlength=4001)[1:]
    assert share.mean() == pytest.approx(1 / 3.1, abs=0.02)
    assert 0.05 < share.std() < 0.12  # as by chance: sqrt(p (1 - p) / 50)


def test_the_same_config_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = make(tmp_path / "1")[0], make(tmp_path / "2")[0]
    names = files(first)
    assert names == files(second)
    assert filecmp.cmpfiles(first, second, names, shallow=False)[0] == names
    assert pairs(make(tmp_path / "3", seed=1)[0], "a") != pairs(first, "a")
    assert pairs(make(tmp_path / "4", interactions=(4000, 700))[0], "a") == pairs(first, "a")  # another domain's size


@pytest.mark.parametrize("overlap", [0.0, 0.4, 1.0])
def test_overlap_is_the_share_of_users_in_all_domains(tmp_path: Path, overlap: float) -> None:
    out, report = make(tmp_path, overlap=overlap, user_zipf=0, interactions=(4000, 2500))
    users = [{user for user, _ in pairs(out, domain)} for domain in ("a", "b")]
    assert len(users[0] & users[1]) == overlap * 300
    assert len(users[0] | users[1]) == 300
    trained = [{user for user, _ in pairs(out, domain, "train")} for domain in ("a", "b")]
    assert report["overlap"] == [[len(one & two) for two in trained] for one in trained]


@pytest.mark.parametrize(("specific", "least", "most"), [(0.0, 0.35, 1.0), (1.0, -0.05, 0.05)])
def test_shared_taste_makes_users_alike_in_both_domains(
    tmp_path: Path, specific: float, least: float, most: float
) -> None:
    """How similar two users are, by the items that they both took, in one domain against the other."""
    settings = {"users": 200, "items": (100, 100), "interactions": (6000, 6000), "item_zipf": 0, "user_zipf": 0}
    out, _ = make(tmp_path, **settings, specific=specific, grouped=0, shared_dim=2, specific_dim=2)
    alike = []
    for domain, start in (("a", 0), ("b", 101)):
        taken = np.zeros((201, 101))
        for user, item in pairs(out, domain):
            taken[user, item - start] = 1
        alike.append(np.corrcoef(taken[1:])[np.triu_indices(200, 1)])
    assert least < np.corrcoef(*alike)[0, 1] < most


def test_the_report_knows_the_best_possible_ranking(tmp_path: Path) -> None:
    """Against full ranking by sets and fractions, by the planted probabilities."""
    settings = {**SMALL, "users": 120, "interactions": (1200, 500), "val": 0.3, "test": 0.3}
    out, report = make(tmp_path, **settings)
    rows = [
        Row(split, domain, user, item - start)
        for domain, start in (("a", 0), ("b", 201))
        for split in ("train", "val", "test")
        for user, item in pairs(out, domain, split)
    ]
    choices, best = Choices(ImplicitConfig(**settings)), {}
    for k, domain in enumerate(("a", "b")):
        truth = choices.domain(k)
        scores = np.zeros((121, truth.item.shape[0] + 1))
        scores[1:, 1:] = [truth.probability(user) for user in range(120)]
        oracle = Oracle(rows, "test", domain, (10,))
        assert report["domains"][domain]["bayes_users"] == len(oracle.users())
        best[domain] = oracle.means(scores)
        assert report["domains"][domain]["bayes_ndcg@10"] == pytest.approx(best[domain]["ndcg@10"], rel=1e-9)
    assert best["a"]["ndcg@10"] > 2 * best["a"]["random/ndcg@10"]


def test_presets_are_what_they_say() -> None:
    paper = configure("paper", ("scale=0.1", "seed=3"))
    assert isinstance(paper, ImplicitConfig)
    assert (paper.users, paper.items) == (1_166_552, (100_000, 100_000, 50_000, 50_000, 50_000))
    assert [paper.rows(k)["train"] for k in range(5)] == [10_198_179, 1_815_654, 10_283_266, 7_491_102, 1_141_299]
    assert paper.rows(4) == {"train": 1_141_299, "val": 114_130, "test": 114_130}
    sizes = configure("shared-specific").rows(0)["train"], configure("shared-specific").rows(3)["train"]
    assert sizes == (80_000, 10_000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("items=[10,10]",), "items: 2 numbers for 5 domains; give one a domain"),
        (("interactions=[10]",), "interactions: 1 numbers for 5 domains"),
        (("interactions=[1,1,1,1,99999999999]",), "domain video-long has 119999999999 over all splits, more than"),
        (("items=[0,1,1,1,1]",), "items.0: Input should be greater than or equal to 1"),
        (("items=5",), "items"),
        (("domains=[a,a,b,c,d]",), "domains: give each a name of its own"),
        (("users=3",), "users: 3 cannot fill 5 domains"),
        (("scale=0",), "scale: Input should be greater than 0"),
        (("scale=-1",), "scale: Input should be greater than 0"),
        (("scale=x",), "scale: Input should be a valid number"),
        (("rows=5",), "unknown key 'rows'; known here: choices, domains"),
        (("items=[2000000000,2000000000,1,1,1]",), "more ids than int32 has"),
    ],
)
def test_a_bad_config_is_one_line(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as raised:
        configure("paper", settings)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_user_who_would_take_most_items_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"most active user of domain b would take 1[34]. of its 100 items, over half"):
        make(tmp_path, interactions=(100, 4000), user_zipf=0.5)
    assert not list(tmp_path.iterdir())


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdr_dist.data.synthetic.write.vocabulary", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path)
    assert files(str(tmp_path)) == []
