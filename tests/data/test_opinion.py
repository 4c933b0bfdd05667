"""Planted reviews: ratings and words against the truth they follow from, and how much of it the texts tell."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse, stats
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import Ridge

from mdr_dist.data.layout import read_schema
from mdr_dist.data.synthetic import configure, synthesize
from mdr_dist.data.synthetic.opinion import DomainOpinion, Opinions, Words
from mdr_dist.storage import read_json
from support.reviewed import Array, column, config, make, read

SPLITS = ("train", "val", "test")


def by_hand(opinion: DomainOpinion, user: int, item: int) -> float:
    """A score without noise."""
    settings = opinion.config
    liked = sum(float(c) * float(q) for c, q in zip(opinion.cares[user], opinion.quality[item], strict=True))
    return settings.base + float(opinion.strict[user]) + float(opinion.level[item]) + settings.signal * liked


def chances(score: float, noise: float) -> list[float]:
    """How likely each of the ratings 1 to 5 is."""
    edges = [0.0, *(stats.norm.cdf((bar - score) / noise) for bar in (1.5, 2.5, 3.5, 4.5)), 1.0]
    return [above - below for below, above in itertools.pairwise(edges)]


@pytest.mark.parametrize("domain", [0, 1])
def test_the_truth_is_the_mean_rating(domain: int) -> None:
    settings = config(noise=0.7)
    opinion = Opinions(settings).domain(domain)
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 200, 60), rng.integers(0, 80, 60)
    score = opinion.score(user, item)
    assert score == pytest.approx([by_hand(opinion, *pair) for pair in zip(user, item, strict=True)], abs=1e-5)
    truth = opinion.truth(score)
    expected = [float(np.dot(chances(s, 0.7), range(1, 6))) for s in score.tolist()]
    assert truth == pytest.approx(expected)
    for value in (1.2, 2.6, 3.0, 4.4):
        drawn = Counter(opinion.rate(rng, np.full(20_000, value)).tolist())
        assert set(drawn) <= {1, 2, 3, 4, 5}
        found = [drawn[rating] for rating in range(1, 6)]
        wanted = 20_000 * np.array(chances(value, 0.7))
        seen = wanted > 5
        wanted[seen] *= sum(np.array(found)[seen]) / wanted[seen].sum()
        assert stats.chisquare(np.array(found)[seen], wanted[seen]).pvalue > 1e-3


def test_the_noise_floor_is_that_of_the_ratings_written(tmp_path: Path) -> None:
    large: dict[str, Any] = {"users": 1500, "items": (300, 300), "interactions": (12_000, 12_000), "noise": 0.6}
    out, report = make(tmp_path, **large)
    opinions = Opinions(config(**large))
    for number, domain in enumerate(("a", "b")):
        opinion, first = opinions.domain(number), (1, 302)[number]
        for split in SPLITS if number else SPLITS[:1]:
            rows = read(out, domain, split)
            rating, truth = (column(rows, name).astype(float) for name in ("rating", "truth"))
            told = report["domains"][domain]["bayes_mse"][split]
            assert told == pytest.approx(((rating - truth) ** 2).mean(), rel=1e-5)
            score = opinion.score(column(rows, "user") - 1, column(rows, "item") - first)
            assert truth == pytest.approx(opinion.truth(score), rel=1e-6)
            chance = np.array([chances(s, 0.6) for s in score.tolist()])
            stars = np.arange(1, 6)
            floor = (chance * (stars - truth[:, None]) ** 2).sum(1)  # the variance of each rating
            spread = ((chance * (stars - truth[:, None]) ** 4).sum(1) - floor**2).sum() ** 0.5 / len(floor)
            assert abs(told - floor.mean()) < 4 * spread < 0.1
    assert report["domains"]["a"]["bayes_mse"]["val"] is None is report["domains"]["a"]["rating_mean"]["test"]


def test_what_users_care_for() -> None:
    settings = config(users=20_000, interactions=(20_000, 20_000), aspects=4, focus=0.5, mixing=0.7, conflict=0.25)
    opinions = Opinions(settings)
    source, target = (opinions.domain(domain).cares for domain in (0, 1))
    for cares in (source, target):
        assert cares.min() >= 0 and cares.sum(1) == pytest.approx(1, abs=1e-5)
        assert cares.mean(0) == pytest.approx(0.25, abs=0.01)
    assert source.var(0) == pytest.approx(0.25 * 0.75 / (4 * 0.5 + 1), rel=0.05)  # of the Dirichlet law
    transport = opinions.transport
    assert np.diag(transport) == pytest.approx(0.3) and sorted(transport[transport > 0].tolist()) == [
        pytest.approx(share) for share in [0.3] * 4 + [0.7] * 4
    ]
    assert transport.sum(0) == pytest.approx(1) and transport.sum(1) == pytest.approx(1)
    own = target - 0.75 * source @ transport  # a quarter of another draw, which the source does not tell
    assert own.sum(1) == pytest.approx(0.25, abs=1e-5) and own.min() > -1e-5
    assert own.var(0) == pytest.approx(0.25**2 * source.var(0), rel=0.1)
    correlation = np.corrcoef(np.hstack([source, own]).T)[:4, 4:]
    assert abs(correlation).max() < 0.04
    same = Opinions(config(mixing=0, conflict=0))
    assert (same.domain(0).cares == same.domain(1).cares).all()
    assert (same.domain(0).quality[:80] != same.domain(1).quality).all()
    assert (same.domain(0).strict == same.domain(1).strict).all()


@pytest.mark.parametrize("domain", [0, 1])
def test_words_tell_who_cares_for_what_and_how_items_are(domain: int) -> None:
    settings = config(aspects=3, words=4, fillers=7, filler=0.3, specific=0.2, clarity=1.5, length=8, document=40)
    opinion, size = Opinions(settings).domain(domain), 20_000
    user, item = 11, 5
    words, lengths = opinion.write(np.random.default_rng(1), np.full(size, user), np.full(size, item))
    assert lengths.min() >= 1 and lengths.max() <= 40 and lengths.mean() == pytest.approx(8, abs=0.1)
    assert lengths.sum() == len(words)
    keys = Words(settings).keys().to_pylist()
    found = np.bincount(words, minlength=len(keys))
    expected = len(words) * np.array([_chance(key, opinion, user, item) for key in keys])
    assert (found[expected == 0] == 0).all() and expected.sum() == pytest.approx(len(words))
    seen = expected > 5
    assert stats.chisquare(found[seen], expected[seen] * found[seen].sum() / expected[seen].sum()).pvalue > 1e-3


def _chance(key: str, opinion: DomainOpinion, user: int, item: int) -> float:
    """How likely a word of this user's review of this item is the one named `key`."""
    settings = opinion.config
    if key.startswith("filler-"):
        total = sum(1 / rank for rank in range(1, settings.fillers + 1))
        return settings.filler / (1 + int(key.removeprefix("filler-"))) / total
    *whose, aspect, tone, _ = key.split("-") if key else ["none", "aspect0", "", ""]
    if whose not in ([], [settings.domains[opinion.number]]):
        return 0.0
    number = int(aspect.removeprefix("aspect"))
    good = 1 / (1 + np.exp(-settings.clarity * float(opinion.quality[item, number])))
    share = (settings.specific if whose else 1 - settings.specific) * (1 - settings.filler) / settings.words
    return share * float(opinion.cares[user, number]) * float(good if tone == "good" else 1 - good)


# what the texts tell

READ = (("source", "train"), ("target", "train"), ("target", "test"))


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("preset") / "made")
    synthesize(out, configure("reviews", ()))
    return out


def bags(out: str, rows: pa.Table, by: str) -> sparse.csr_matrix:
    """[ids of `by`, words] the share of each word in the reviews."""
    schema, lists = read_schema(out), rows["review"].chunk(0)
    row = np.repeat(column(rows, by), np.diff(lists.offsets.to_numpy()))
    shape = (schema[by].rows, schema["review"].rows)
    found = sparse.csr_matrix((np.ones(len(row)), (row, lists.values.to_numpy())), shape=shape)
    return sparse.diags(1 / np.maximum(np.asarray(found.sum(1)).ravel(), 1)) @ found


def item_means(train: pa.Table, size: int) -> Array:
    item, rating = column(train, "item"), column(train, "rating")
    counts = np.bincount(item, minlength=size)
    return np.where(counts, np.bincount(item, rating, minlength=size) / np.maximum(counts, 1), rating.mean())


def cold_start_error(
    user_UD: Array, item_ID: Array, *, mean: Array, rows: tuple[pa.Table, pa.Table], each: bool = True
) -> float:
    """The squared error on the second rows of a ridge regression, learned on the first.

    It sees the features of user and item and their products, of `each` with each or of those alone in the same place.
    """

    def features(table: pa.Table) -> Array:
        user, item = user_UD[column(table, "user")], item_ID[column(table, "item")]
        products = (user[:, :, None] * item[:, None]).reshape(len(user), -1) if each else user * item
        return np.hstack([mean[column(table, "item")][:, None], user, item, products])

    train, test = rows
    model = Ridge(alpha=100).fit(features(train), column(train, "rating"))
    return float(((model.predict(features(test)) - column(test, "rating")) ** 2).mean())


def test_source_texts_tell_cold_users_tastes(preset: str) -> None:
    """A linear model of both documents comes half the way from the items' means to the best possible."""
    source, train, test = (
        read(preset, *place) for place in (("source", "train"), ("target", "train"), ("target", "test"))
    )
    mean = item_means(train, read_schema(preset)["item"].rows)
    usual = float(((mean[column(test, "item")] - column(test, "rating")) ** 2).mean())
    best = read_json(f"{preset}/report.json")["domains"]["target"]["bayes_mse"]["test"]
    common = train.filter(pa.array(np.isin(column(train, "user"), column(source, "user"))))
    reduced = []
    for bag in (bags(preset, source, "user"), bags(preset, train, "item")):
        found = TruncatedSVD(12, random_state=0).fit_transform(bag)
        reduced.append(found / found.std(0))
    told = cold_start_error(*reduced, mean=mean, rows=(common, test))
    assert usual - told > 0.5 * (usual - best) > 0.2
    assert told > best
    shuffled = np.random.default_rng(0).permutation(reduced[0])  # other users' texts
    assert cold_start_error(shuffled, reduced[1], mean=mean, rows=(common, test)) > usual - 0.1 * (usual - best)


def test_aspects_of_the_source_must_be_matched_with_the_targets(preset: str) -> None:
    """Features by the words' planted meaning: one aspect with the same is not enough, each with each is."""
    keys = pq.read_table(f"{preset}/vocabulary/review.parquet")["key"].to_pylist()
    source, train, test = (
        read(preset, *place) for place in (("source", "train"), ("target", "train"), ("target", "test"))
    )
    aspects = [[f"aspect{number}-" in key for key in keys] for number in range(4)]
    tone = np.array([("-good-" in key) - 1.0 * ("-bad-" in key) for key in keys])
    cares = bags(preset, source, "user") @ np.array(aspects).T
    quality = bags(preset, train, "item") @ (np.array(aspects) * tone).T
    users, items = cares / cares.std(0), quality / quality.std(0)
    rows = train.filter(pa.array(np.isin(column(train, "user"), column(source, "user")))), test
    mean = item_means(train, len(items))
    matches = {"same": np.eye(4), "planted": np.array(read_json(f"{preset}/report.json")["transport"])}
    errors = {
        name: cold_start_error(users @ match, items, mean=mean, rows=rows, each=False)
        for name, match in matches.items()
    }
    every = cold_start_error(users, items, mean=mean, rows=rows)
    assert errors["same"] - errors["planted"] > 0.1
    assert abs(every - errors["planted"]) < 0.05
