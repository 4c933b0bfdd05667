"""Diagnostics against numbers worked by hand."""

import math

import numpy as np
import pytest

from mdr_dist.eval.diagnostics import (
    conflict_rows,
    diversity_index_all_forward,
    diversity_index_specific_forward,
    gate_entropy,
    information_abundance,
    norm_thresholds,
    singular_spectrum,
)


def test_spectrum_of_a_rotated_diagonal():
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.normal(size=(50, 3)))[0], np.linalg.qr(rng.normal(size=(3, 3)))[0]
    matrix = left @ np.diag([1.0, 4.0, 2.0]) @ right
    assert singular_spectrum(matrix) == pytest.approx([4, 2, 1])
    assert information_abundance(matrix) == pytest.approx(7 / 4)


def test_abundance_runs_from_one_to_the_rank():
    assert information_abundance(np.outer([1, 2, 3, 4], [1, -1])) == pytest.approx(1)
    assert information_abundance(np.eye(5)) == pytest.approx(5)
    assert math.isnan(information_abundance(np.zeros((3, 2))))


def test_gate_entropy():
    assert gate_entropy([[1, 0, 0]]) == 0
    assert gate_entropy(np.full((4, 5, 7), 0.2)) == pytest.approx(math.log(5))
    # rows: one certain, one even over two of three experts
    assert gate_entropy([[0, 1, 0], [0.5, 0.5, 0]]) == pytest.approx(math.log(2) / 2)
    # the experts are axis 1: here each of two dimensions has its own distribution, (1, 0) and (.5, .5)
    assert gate_entropy([[[1, 0.5], [0, 0.5]]]) == pytest.approx(math.log(2) / 2)


NORMS = np.array([[9, 1, 5], [9, 8, 5], [1, 1, 2], [4, 9, 0]], float)


def test_diversity_all_forward():
    # rows 0 and 3 hold a norm over 7 and one under 3; row 1 has no small one, row 2 no big one
    assert diversity_index_all_forward(NORMS, 7, 3) == 0.5
    assert diversity_index_all_forward(NORMS, 7, 1) == 0.25  # strictly under 1: row 3 only
    assert diversity_index_all_forward(NORMS, 9, 3) == 0.0  # strictly over 9: none
    assert math.isnan(diversity_index_all_forward(np.zeros((0, 3)), 7, 3))


def test_diversity_specific_forward():
    # experts 0 and 1: rows 0 (9, 1) only; experts 2 and 1: row 3 (0, 9), in reverse order too
    assert diversity_index_specific_forward(NORMS, (0, 1), tau_big=7, tau_small=3) == 0.25
    assert diversity_index_specific_forward(NORMS, (2, 1), tau_big=7, tau_small=3) == 0.25
    assert diversity_index_specific_forward(NORMS, (0, 2), tau_big=7, tau_small=3) == 0.0


def test_thresholds_are_the_quartiles_of_all_norms():
    assert norm_thresholds(np.arange(5).reshape(1, 5)) == (3, 1)
    # big 8.25, small 1: row 3 is over and under; row 0 is not strictly under
    assert diversity_index_all_forward(NORMS) == 0.25
    # the quartiles come from all experts, not from the pair's
    assert diversity_index_specific_forward(NORMS, (0, 1), tau_small=3) == 0.25  # theirs would be 9, and none over it


def test_conflict_rows():
    table = [  # user item domain label in conflict between domains 0 and 2
        (1, 7, 0, 1, True),
        (1, 7, 2, 0, True),
        (1, 7, 2, 1, False),  # agrees with domain 0
        (1, 8, 0, 1, False),  # met in one domain only
        (2, 7, 0, 0, False),  # domain 1 is not in the pair
        (2, 7, 1, 1, False),
        (3, 7, 0, 0, False),  # the same label in both
        (3, 7, 2, 0, False),
        (7, 1, 2, 0, False),  # (7, 1) is not (1, 7)
        (4, 9, 0, 0, False),  # opposite labels within one domain
        (4, 9, 0, 1, False),
    ]
    user, item, domain, label, expected = (np.array(column) for column in zip(*table, strict=True))
    assert conflict_rows(user, item, label, domain=domain, pair=(0, 2)).tolist() == expected.tolist()
    assert conflict_rows(user, item, label, domain=domain, pair=(2, 0)).tolist() == expected.tolist()
    assert not conflict_rows(user, item, label, domain=domain, pair=(3, 4)).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: information_abundance([[1, math.nan]]), "1 of 2 values are not finite"),
        (lambda: singular_spectrum([1, 2]), "matrix"),
        (lambda: gate_entropy([[0.5, 0.6]]), "sum to 1"),
        (lambda: gate_entropy([0.5, 0.5]), r"\[N, E"),
        (lambda: diversity_index_all_forward([1, 2], 1, 1), r"\[B, E\]"),
        (lambda: conflict_rows([1], [1], [3], domain=[0], pair=(0, 1)), "0 or 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
