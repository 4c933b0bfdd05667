"""Synthetic data sets: what is on disk against what was planted."""

import filecmp
import math
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from mdr_dist.config import validated
from mdr_dist.data.layout import ROW_GROUP, read_schema, read_shards
from mdr_dist.data.synthetic import SyntheticConfig, synthesize
from mdr_dist.errors import UserError
from mdr_dist.storage import read_json


def make(folder, **settings):
    out = str(folder / "made")
    report = synthesize(out, SyntheticConfig(**settings))
    return out, report


def read(out, domain, split="train"):
    """Column → numpy array of a domain's rows of a split."""
    tables = [pq.read_table(f"{out}/{s.path}") for s in read_shards(out) if (s.domain, s.split) == (domain, split)]
    names = tables[0].column_names
    return {name: np.concatenate([table[name].to_numpy() for table in tables]) for name in names}


def files(folder):
    return sorted(os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names)


def test_a_data_set_is_what_its_schema_says(tmp_path):
    out, report = make(tmp_path, users=300, items=70, domains=3, rows=5000, skew=1.0, features=9, val=0.2, name="small")
    schema = read_schema(out)
    assert schema.domains == ("d0", "d1", "d2") and schema.labels == ("label", "truth") and schema.truth == "truth"
    names = ["user", "item", "user_group", "item_category", "user_1", "item_1", "context_1", "user_2", "item_2"]
    assert [feature.name for feature in schema.features] == [*names, "domain"]
    # 5000 in the proportion 1 : 1/2 : 1/3
    assert schema.rows["train"] == {"d0": 2727, "d1": 1364, "d2": 909}
    assert schema.rows["val"] == {"d0": 545, "d1": 273, "d2": 182}
    for split in ("train", "val", "test"):
        for domain in schema.domains:
            rows = read(out, domain, split)
            assert len(rows["label"]) == schema.rows[split][domain] == report["domains"][domain]["rows"][split]
            for name in names:
                assert rows[name].dtype == np.int32
                assert rows[name].min() >= 1 and rows[name].max() < schema[name].rows  # 0 is the default row
            assert (rows["user_key"] == rows["user"]).all()
            assert set(rows["label"]) <= {0.0, 1.0} and 0 < rows["truth"].min() <= rows["truth"].max() < 1
    assert read_json(f"{out}/report.json") == report


def test_vocabularies_map_ids_back(tmp_path):
    out, _ = make(tmp_path, users=50, items=20, domains=2, rows=600, groups=4, shared_items=False)
    schema = read_schema(out)
    user = pq.read_table(f"{out}/vocabulary/user.parquet").to_pydict()
    assert user["id"] == list(range(1, 51)) and user["key"][:2] == ["u1", "u2"]
    item = pq.read_table(f"{out}/vocabulary/item.parquet").to_pydict()
    assert schema["item"].starts == (0, 21) and schema["item"].rows == 42
    assert item["id"] == [*range(1, 21), *range(22, 42)]
    assert item["key"] == [f"i{number}" for number in range(1, 21)] * 2
    assert item["domain"] == ["d0"] * 20 + ["d1"] * 20
    assert pq.read_table(f"{out}/vocabulary/user_group.parquet").to_pydict()["key"] == ["v1", "v2", "v3", "v4"]
    for name, table in (("user", user), ("item", item)):
        seen = np.concatenate([read(out, domain)[name] for domain in schema.domains])
        assert table["count"] == np.bincount(seen, minlength=schema[name].rows)[table["id"]].tolist()
    for number, domain in enumerate(schema.domains):
        ids = read(out, domain)["item"]
        assert ids.min() > schema["item"].starts[number] and ids.max() <= schema["item"].starts[number] + 20
    assert set(schema.digests) == {"user", "item", "user_group", "item_category"}


def test_the_same_config_gives_the_same_bytes(tmp_path):
    settings = {"users": 100, "items": 50, "rows": 3000, "features": 8}
    first, _ = make(tmp_path / "1", **settings)
    second, _ = make(tmp_path / "2", **settings)
    names = files(first)
    assert names == files(second)
    assert filecmp.cmpfiles(first, second, names, shallow=False)[0] == names
    other, _ = make(tmp_path / "3", **settings, seed=1)
    assert (read(other, "d0")["user"] != read(first, "d0")["user"]).any()


def test_one_setting_leaves_the_rest_alone(tmp_path):
    settings = {"users": 100, "items": 50, "rows": 2000}
    first, _ = make(tmp_path / "1", **settings)
    second, _ = make(tmp_path / "2", **settings, test=0.5, features=9)
    for name in ("user", "item", "user_group", "truth"):
        assert (read(first, "d1")[name] == read(second, "d1")[name]).all()


def test_blocks_differ_and_fill_row_groups(tmp_path):
    out, _ = make(tmp_path, domains=1, rows=2 * ROW_GROUP + 10, users=5000)
    (shard,) = [shard for shard in read_shards(out) if shard.split == "train"]
    assert shard.row_groups == (ROW_GROUP, ROW_GROUP, 10)
    user = read(out, "d0")["user"]
    assert (user[:ROW_GROUP] != user[ROW_GROUP : 2 * ROW_GROUP]).mean() > 0.99


def test_labels_follow_the_truth_and_the_report_measures_it(tmp_path):
    out, report = make(tmp_path, domains=2, rows=60_000, rate=0.2, rate_spread=0.0, test=0.5)
    for domain in ("d0", "d1"):
        rows = read(out, domain, "test")
        label, truth = rows["label"], rows["truth"].astype(np.float64)
        assert report["domains"][domain]["bayes_auc"]["test"] == pytest.approx(roc_auc_score(label, truth), abs=2e-4)
        assert report["domains"][domain]["label_mean"]["test"] == pytest.approx(label.mean())
        assert truth.mean() == pytest.approx(0.2, abs=0.01)
        for part in np.array_split(np.argsort(truth), 8):  # calibrated where the truth is low and where it is high
            deviation = math.sqrt((truth[part] * (1 - truth[part])).mean() / len(part))
            assert abs(label[part].mean() - truth[part].mean()) < 4 * deviation


def test_equal_truths_count_as_ties(tmp_path):
    out, report = make(tmp_path, items=3, groups=1, domains=1, rows=3000, appeal=1.0, item_zipf=0)
    rows = read(out, "d0")
    assert len(np.unique(rows["truth"])) == 3
    assert report["domains"]["d0"]["bayes_auc"]["train"] == pytest.approx(roc_auc_score(rows["label"], rows["truth"]))


def test_signal_appeal_and_groups_have_the_variance_asked_for(tmp_path):
    """Log-odds of the written truth, split by analysis of variance; uniform draws, wide factors: little noise."""
    settings = {
        "users": 2000,
        "items": 2000,
        "domains": 1,
        "rows": 200_000,
        "user_zipf": 0,
        "item_zipf": 0,
        "shared_dim": 16,
        "specific_dim": 16,
        "groups": 500,
        "signal": 1.5,
        "appeal": 0.4,
        "specific": 0.5,
    }
    out, _ = make(tmp_path, **settings)
    rows = read(out, "d0")
    logit = np.log(rows["truth"].astype(np.float64) / (1 - rows["truth"]))
    assert logit.std() == pytest.approx(1.5, rel=0.05)
    count = np.bincount(rows["item"])
    mean = np.bincount(rows["item"], logit) / np.maximum(count, 1)
    within = ((logit - mean[rows["item"]]) ** 2).sum() / (len(logit) - (count > 0).sum())
    assert 1 - within / logit.var() == pytest.approx(0.4, abs=0.05)


def meetings(out, domains):
    """[pairs, K] the truth of the (user, item) pairs that were met in all the domains."""
    by_domain = []
    for domain in domains:
        rows = read(out, domain)
        by_domain.append(dict(zip(zip(rows["user"], rows["item"], strict=True), rows["truth"], strict=True)))
    common = set.intersection(*(set(table) for table in by_domain))
    return np.array([[table[pair] for table in by_domain] for pair in common], float)


PURE = {
    "users": 60,
    "items": 60,
    "domains": 2,
    "rows": 20_000,
    "specific": 0,
    "appeal": 0,
    "rate_spread": 0,
    "rate": 0.5,
}


def test_full_conflict_between_two_domains_reverses_every_taste(tmp_path):
    out, report = make(tmp_path, **PURE, conflict=1.0)
    truth = meetings(out, ["d0", "d1"])
    logit = np.log(truth / (1 - truth))
    assert len(logit) > 1000
    # with opposite tastes the sum is what the two base rates leave: a constant
    assert np.ptp(logit.sum(axis=1)) < 1e-2 < np.ptp(logit[:, 0])
    assert report["opposed"] == [[0.0, 1.0], [1.0, 0.0]]


def test_without_conflict_domains_agree(tmp_path):
    out, report = make(tmp_path, **PURE, conflict=0.0)
    truth = meetings(out, ["d0", "d1"])
    assert np.ptp(np.log(truth / (1 - truth)) @ [1, -1]) < 1e-2
    assert report["opposed"] == [[0.0, 0.0], [0.0, 0.0]]


def test_conflict_depends_on_user_item_and_domain(tmp_path):
    out, report = make(tmp_path, **{**PURE, "domains": 4, "rows": 40_000, "groups": 20}, conflict=1.0)
    truth = meetings(out, ["d0", "d1", "d2", "d3"])
    sides = np.log(truth / (1 - truth)) > 0
    # every domain has both pairs of opposite and of equal sides with every other
    for first in range(4):
        for second in range(first):
            assert 0.3 < (sides[:, first] != sides[:, second]).mean() < 0.9
            assert 0.4 < report["opposed"][first][second] < 0.8
    half = make(tmp_path / "half", **PURE, conflict=0.5)[1]["opposed"][0][1]
    assert 0.2 < half < 0.6


def test_specific_taste_is_unrelated_between_domains(tmp_path):
    _, report = make(tmp_path, **{**PURE, "specific": 1.0, "specific_dim": 8, "groups": 60}, conflict=0.0)
    assert report["opposed"][0][1] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("overlap", "several"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_overlap_is_the_share_of_users_in_several_domains(tmp_path, overlap, several):
    out, report = make(tmp_path, users=300, domains=3, rows=30_000, overlap=overlap, user_zipf=0, skew=0)
    assert report["users_in_several"] == pytest.approx(several, abs=0.005)
    seen = [set(read(out, domain)["user"].tolist()) for domain in ("d0", "d1", "d2")]
    assert report["overlap"] == [[len(a & b) for b in seen] for a in seen]
    assert [report["domains"][domain]["users"] for domain in ("d0", "d1", "d2")] == [len(users) for users in seen]


def test_users_and_items_are_met_by_zipfs_law(tmp_path):
    out, _ = make(tmp_path, users=100, items=100, domains=2, rows=200_000, user_zipf=0.0, item_zipf=1.0)
    rows = read(out, "d1")
    expected = 1 / np.arange(1, 101)
    share = np.sort(np.bincount(rows["item"], minlength=101)[1:])[::-1] / len(rows["item"])
    assert share == pytest.approx(expected / expected.sum(), abs=0.004)
    assert np.bincount(rows["user"], minlength=101)[1:] / len(rows["user"]) == pytest.approx(0.01, abs=0.002)
    assert np.argmax(np.bincount(rows["item"])) == np.argmax(np.bincount(read(out, "d0")["item"]))  # known everywhere


def test_extra_columns_tell_of_factors_or_nothing(tmp_path):
    out, _ = make(tmp_path, users=500, domains=2, rows=30_000, features=11, shared_dim=1, levels=8, groups=10)
    by_user: dict[str, np.ndarray] = {}
    for domain in ("d0", "d1"):
        rows = read(out, domain)
        for name in ("user_group", "user_1", "user_2"):
            table = by_user.setdefault(name, np.zeros(501, int))
            table[rows["user"]] = np.where(table[rows["user"]] > 0, table[rows["user"]], rows[name])
            assert (table[rows["user"]] == rows[name]).all()  # the same for a user everywhere
        assert (np.bincount(rows["context_1"], minlength=9)[1:] / len(rows["user"])) == pytest.approx(1 / 8, abs=0.015)
    assert set(np.bincount(by_user["user_group"])[1:]) == {50}
    # one shared factor: user_1 tells its quantile, so the groups explain half of it; user_2 is noise
    explained = {}
    for name in ("user_1", "user_2"):
        value, group = by_user[name][1:], by_user["user_group"][1:]
        centre = np.bincount(group, value) / np.maximum(np.bincount(group), 1)
        explained[name] = centre[group].var() / value.var()
    assert explained["user_1"] > 0.2 > 0.06 > explained["user_2"]


def test_two_features_are_enough(tmp_path):
    out, _ = make(tmp_path, users=20, items=20, domains=1, rows=100, features=2)
    assert set(read(out, "d0")) == {"user", "item", "label", "truth", "user_key"}


def test_presets_are_what_they_say(tmp_path):
    tiny = SyntheticConfig.tiny()
    report = synthesize(str(tmp_path / "tiny"), tiny)
    assert sum(domain["rows"]["train"] for domain in report["domains"].values()) == tiny.rows <= 5000
    assert SyntheticConfig.tiny(seed=3) == tiny.model_copy(update={"seed": 3})
    large = SyntheticConfig.large()
    assert (large.users, large.domains, large.features) == (1_000_000, 5, 20)
    assert SyntheticConfig.conflicting().conflict == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"users": 3, "domains": 5}, "cannot fill 5 domains"),
        ({"rows": 2}, "cannot fill 5 domains"),
        ({"conflict": 1.5}, "conflict"),
        ({"user": 5}, "unknown key 'user'; known here: appeal"),
        ({"val": 0}, "val"),
        ({"items": 10**9, "shared_items": False}, "more ids than int32 has"),
    ],
)
def test_a_bad_config_is_one_line(settings, message):
    with pytest.raises(UserError, match=message) as raised:
        validated(SyntheticConfig, settings, where="--set")
    assert "\n" not in str(raised.value)


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="not empty"):
        make(tmp_path, rows=100)
    assert files(tmp_path) == ["made/mine.txt"]


def test_nothing_half_written(tmp_path, monkeypatch):
    monkeypatch.setattr("mdr_dist.data.synthetic.write.vocabulary", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path, rows=100)
    assert files(tmp_path) == []
