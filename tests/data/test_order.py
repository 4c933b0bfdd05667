"""Orders and plans by arithmetic, against the rows written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdr_dist.data.order import Order, Plan, count_streams, dealt, permutation, seed_of, stratified
from mdr_dist.errors import UserError

SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=12)


def make_order(sizes: list[int], streams: int, share: int, first: int = 0) -> Order:
    return Order(np.arange(len(sizes)) + 100, np.array(sizes), streams, share, first)


@given(SIZES, st.integers(1, 9), st.integers(1, 7))
def test_streams_are_stretches_read_side_by_side(sizes: list[int], streams: int, share: int) -> None:
    order = make_order(sizes, streams, share)
    sequence = [(group + 100, row) for group, size in enumerate(sizes) for row in range(size)]
    n = len(sequence)
    stretches = [sequence[v * n // streams : (v + 1) * n // streams] for v in range(streams)]
    assert order.steps == max(-(-len(stretch) // share) for stretch in stretches)
    for batch in range(order.steps):
        for v, stretch in enumerate(stretches):
            expected = stretch[batch * share : (batch + 1) * share]
            pieces = list(order.pieces(batch, v))
            assert [(p.group, row) for p in pieces for row in range(p.start, p.stop)] == expected
            assert order.counts(batch)[v] == len(expected)
            if expected:
                assert sequence[order.start(batch, v)] == expected[0]


@given(st.lists(SIZES, min_size=1, max_size=5), st.integers(1, 4), st.integers(1, 5))
def test_turns_go_round_until_each_order_has_ended(parts: list[list[int]], streams: int, share: int) -> None:
    orders = tuple(make_order(sizes, streams, share) for sizes in parts)
    left, expected = [0] * len(orders), []
    while any(left[i] < order.steps for i, order in enumerate(orders)):
        for i, order in enumerate(orders):
            if left[i] < order.steps:
                expected.append((i, left[i]))
                left[i] += 1
    plan = Plan(orders)
    assert plan.steps == len(expected)
    turns = [plan.turn(step) for step in range(plan.steps)]
    assert [(next(i for i, o in enumerate(orders) if o is order), batch) for order, batch in turns] == expected


def test_every_stretch_has_about_the_shares_of_the_domains() -> None:
    strata = np.repeat([0, 1, 2], [40, 20, 10])
    sizes = np.full(70, 64)
    order = stratified(sizes, strata, 3, "joint", 0)
    assert sorted(order) == list(range(70))
    for start in range(0, 70, 7):  # 4 : 2 : 1 of seven; a place strays by less than one of its own kind
        counts = np.bincount(strata[order[start : start + 7]], minlength=3)
        assert np.abs(counts - [4, 2, 1]).max() <= 2
    cumulative = np.cumsum(strata[order] == 0)
    assert np.abs(cumulative - 40 * np.arange(1, 71) / 70).max() < 2.5


def test_places_weigh_row_groups_by_their_rows() -> None:
    """Two domains of 5000 rows stay within a row group of each other, though one has 500 crumbs of a row beside."""
    sizes = np.array([1000] * 5 + [1000] * 5 + [1] * 500)
    strata = np.array([0] * 5 + [1] * 505)
    for seed in range(40):
        order = stratified(sizes, strata, seed)
        shares = [np.cumsum(sizes[order] * (strata[order] == k)) / sizes[strata == k].sum() for k in (0, 1)]
        assert np.abs(shares[0] - shares[1]).max() <= 2 * 1000 / 5000


@given(SIZES, st.integers(1, 9))
def test_dealing_only_moves_groups(sizes: list[int], streams: int) -> None:
    assert sorted(dealt(np.array(sizes), streams)) == list(range(len(sizes)))


def test_neighbours_in_the_sequence_are_read_together() -> None:
    assert dealt(np.full(12, 7), 4).tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert dealt(np.full(4, 7), 4).tolist() == [0, 1, 2, 3] == dealt(np.full(4, 7), 9).tolist()
    # crumbs fill a turn together with what they lie beside
    assert dealt(np.array([8, 8, 1, 1, 1, 1, 4, 8]), 2).tolist() == [0, 2, 3, 4, 5, 6, 1, 7]


def test_orders_differ_by_every_part_of_the_key() -> None:
    keys = [(0, "joint", 0), (1, "joint", 0), (0, "other", 0), (0, "joint", 1)]
    orders = {tuple(permutation(50, *key)) for key in keys} | {tuple(permutation(50, *keys[0]))}
    assert len(orders) == 4
    strata = np.zeros(50, dtype=np.int64)
    assert len({tuple(stratified(np.full(50, 5), strata, *key)) for key in keys * 2}) == 4
    assert len({seed_of("1", "23"), seed_of("12", "3"), seed_of(1, 23), seed_of("123")}) == 3  # 1 and "1" are one


@given(st.integers(1, 5000))
def test_the_default_is_the_largest_divisor_up_to_32(batch: int) -> None:
    assert count_streams(batch, 0) == max(v for v in range(1, 33) if batch % v == 0)


def test_streams_must_divide_the_batch() -> None:
    assert count_streams(96, 48) == 48
    with pytest.raises(UserError, match=r"data\.streams: 5 does not divide data\.batch 96"):
        count_streams(96, 5)
