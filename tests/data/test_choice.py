"""The law by which users take items, against enumerations of all that they may meet."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from mdr_dist.data.synthetic import ImplicitConfig, choice
from mdr_dist.data.synthetic.choice import Alias, Block, Choices, DomainChoice
from mdr_dist.errors import UserError

SMALL: dict[str, Any] = {"domains": ("a", "b"), "users": 300, "items": (200, 100), "interactions": (4000, 1500)}


def one_user(taste: list[float], popularity: list[float], *, count: list[int], choices: int) -> DomainChoice:
    """A domain whose users, one a count, all have these tastes."""
    return DomainChoice(
        name="d",
        user=np.ones((len(count), 1), np.float32),
        item=np.array(taste, np.float32)[:, None],
        popularity=np.array(popularity) / sum(popularity),
        count=np.array(count),
        choices=choices,
    )


def enumerated(taste: list[float], popularity: list[float], *, choices: int) -> list[float]:
    """p(i): the sum over everything that a user may meet of its chance, where i is what it likes most."""
    p, found = np.array(popularity) / sum(popularity), [0.0] * len(taste)
    for met in itertools.product(range(len(taste)), repeat=choices):
        found[max(met, key=lambda item: taste[item])] += float(np.prod(p[list(met)]))
    return found


TASTE, POPULARITY = [0.3, -1.0, 2.0, 0.9, -0.2], [5.0, 1.0, 1.0, 2.0, 8.0]


@pytest.mark.parametrize("choices", [1, 2, 4])
def test_a_user_takes_what_it_likes_most_of_what_it_meets(choices: int) -> None:
    expected = enumerated(TASTE, POPULARITY, choices=choices)
    truth = one_user(TASTE, POPULARITY, count=[1] * 40_000, choices=choices)
    assert truth.probability(0) == pytest.approx(expected, abs=1e-12)
    user, item = truth.take(np.random.default_rng(0), Block(0, 0, 40_000, 0, 40_000))
    assert np.bincount(user).tolist() == [1] * 40_000
    assert np.bincount(item, minlength=5) / 40_000 == pytest.approx(expected, abs=0.011)


def test_the_next_item_is_another_one() -> None:
    """Pairs of items: the first by p, the second by p among the others."""
    p = enumerated(TASTE, POPULARITY, choices=2)
    expected = {
        frozenset(two): sum(p[i] * p[j] / (1 - p[i]) for i, j in itertools.permutations(two))
        for two in itertools.combinations(range(5), 2)
    }
    truth = one_user(TASTE, POPULARITY, count=[2] * 30_000, choices=2)
    user, item = truth.take(np.random.default_rng(1), Block(0, 0, 30_000, 0, 60_000))
    items = item[np.argsort(user, kind="stable")].reshape(-1, 2)
    found = Counter(frozenset(two) for two in items.tolist())
    assert set(map(len, found)) == {2}
    for two, chance in expected.items():
        assert found[two] / 30_000 == pytest.approx(chance, abs=0.012)


def test_users_take_as_many_as_they_should() -> None:
    truth = one_user(TASTE, POPULARITY, count=[0, 4, 0, 1, 3], choices=3)
    user, item = truth.take(np.random.default_rng(2), Block(0, 1, 5, 0, 8))
    assert Counter(user.tolist()) == {1: 4, 3: 1, 4: 3}
    assert len(set(zip(user, item, strict=True))) == 8


def test_items_that_are_never_met_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "ROUNDS", 20)
    truth = one_user(TASTE, [1, 1e-12, 1e-12, 1e-12, 1e-12], count=[3], choices=1)
    with pytest.raises(UserError, match="domain d does not find the 3 of 5 items"):
        truth.take(np.random.default_rng(0), Block(0, 0, 1, 0, 3))


@pytest.mark.parametrize("weights", [[1.0], [1, 1, 1], [8, 1, 3, 0.5], (np.arange(1, 400) ** -1.5).tolist()])
def test_an_alias_holds_each_probability(weights: list[float]) -> None:
    p = np.array(weights) / sum(weights)
    alias = Alias.of(p)
    held = alias.keep.copy()
    np.add.at(held, alias.other, 1 - alias.keep)
    assert held / len(p) == pytest.approx(p, rel=1e-9)
    assert np.bincount(alias.draw(np.random.default_rng(0), shape=(300, 100)).ravel())[0] / 30_000 == pytest.approx(
        p[0], abs=0.012
    )


def test_activity_follows_zipf_and_is_a_user_s_everywhere() -> None:
    choices = Choices(ImplicitConfig(**{**SMALL, "interactions": (2000, 1000)}, user_zipf=0.5))
    one, two = (choices.domain(k).count for k in (0, 1))
    weights = np.arange(1, 301) ** -0.5
    assert np.sort(one)[::-1] == pytest.approx(1 + weights / weights.sum() * (2400 - 300), abs=1)
    assert (np.diff(two[np.argsort(-one, kind="stable")]) <= 1).all()
    few = Choices(ImplicitConfig(**{**SMALL, "interactions": (2000, 100)})).domain(1).count
    assert few.sum() == 120
    assert (two.min(), few.min()) == (2, 0)


def test_popularity_follows_zipf_and_taste_has_the_shares_asked_for() -> None:
    config = ImplicitConfig(**SMALL, item_zipf=0.7, specific=0.3, shared_dim=40, specific_dim=40, groups=300)
    one, two = Choices(config).domain(0), Choices(config).domain(1)
    expected = np.arange(1, 201) ** -0.7
    assert np.sort(one.popularity)[::-1] == pytest.approx(expected / expected.sum())
    assert (one.popularity[:100] != two.popularity).any()
    assert (one.user @ one.item.T).std() == pytest.approx(1, rel=0.05)
    assert (one.user[:, :40] @ one.item[:, :40].T).var() == pytest.approx(0.7, rel=0.1)
    assert (one.user[:, :40] == two.user[:, :40]).all()
    assert abs(np.corrcoef(one.user[:, 40:].ravel(), two.user[:, 40:].ravel())[0, 1]) < 0.03
