"""What became of embeddings, experts and gates: collapse, diversity, entropy.

Shape letters: N rows, B conflict rows, E experts, D width.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]


def singular_spectrum(matrix: ArrayLike) -> Floats:
    """[min(N, D)] the singular values of an embedding or output matrix [N, D], the largest first."""
    values = _finite(matrix)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"a matrix [N, D] is needed, got shape {values.shape}")
    return np.linalg.svd(values, compute_uv=False)


def information_abundance(matrix: ArrayLike) -> float:
    """The sum of the singular values over the largest: from 1 (collapsed to a line) to the full rank.

    `nan` for a matrix of zeros. Source: Guo et al., On the Embedding Collapse when Scaling up Recommendation Models.
    """
    spectrum = singular_spectrum(matrix)
    return float(spectrum.sum() / spectrum[0]) if spectrum[0] > 0 else math.nan


def gate_entropy(gates: ArrayLike) -> float:
    """Mean entropy, in nats, of gates [N, E, ...] that are distributions over axis 1: 0 (one expert) to ln E (all)."""
    values = _finite(gates)
    if values.ndim < 2 or not values.size:
        raise ValueError(f"gates [N, E, ...] are needed, got shape {values.shape}")
    if values.min() < 0 or not np.allclose(values.sum(axis=1), 1, atol=1e-3):
        raise ValueError("gates must be non-negative and sum to 1 over the experts (axis 1)")
    terms = values * np.log(np.where(values > 0, values, 1))
    return float(-terms.sum(axis=1).mean()) + 0.0  # the sum turns -0 into 0


def norm_thresholds(norms: ArrayLike) -> tuple[float, float]:
    """(big, small): the 75th and 25th percentile of all expert norms of a model, whatever their shape."""
    values = _finite(norms)
    return float(np.quantile(values, 0.75)), float(np.quantile(values, 0.25))


def diversity_index_all_forward(
    norms_BE: ArrayLike, tau_big: float | None = None, tau_small: float | None = None
) -> float:
    """The share of conflict rows in which one expert's output is large and another's small (Crocodile eq. 1).

    `norms_BE` are L2 norms of the expert outputs of the rows that `conflict_rows` picks, for models in which every
    expert sees every row. A threshold that is not given comes from these norms by `norm_thresholds`; to compare
    domain pairs, give those of all the model's norms. `nan` without rows.
    """
    norms = _norms(norms_BE)
    if not len(norms):
        return math.nan
    big, small = _thresholds(norms, tau_big, tau_small)
    return float(((norms.max(axis=1) > big) & (norms.min(axis=1) < small)).mean())


def diversity_index_specific_forward(
    norms_BE: ArrayLike, pair: tuple[int, int], *, tau_big: float | None = None, tau_small: float | None = None
) -> float:
    """The same for models with one expert a domain: only the experts of the pair's two domains count (eq. 2)."""
    norms = _norms(norms_BE)
    if not len(norms):
        return math.nan
    big, small = _thresholds(norms, tau_big, tau_small)
    return diversity_index_all_forward(norms[:, list(pair)], big, small)


def conflict_rows(  # budget: user, item and label are one row, and read as such
    user: ArrayLike, item: ArrayLike, label: ArrayLike, *, domain: ArrayLike, pair: tuple[int, int]
) -> NDArray[np.bool_]:
    """[N] the rows of the pair's domains whose (user, item) has the opposite label in the other domain.

    `item` may be the item's category where domains share no items. Labels are 0 or 1.
    """
    domains, labels = np.asarray(domain), np.asarray(label)
    if ((labels != 0) & (labels != 1)).any():
        raise ValueError("labels must be 0 or 1")
    inside = np.flatnonzero((domains == pair[0]) | (domains == pair[1]))
    users = np.unique(np.asarray(user)[inside], return_inverse=True)[1]
    items = np.unique(np.asarray(item)[inside], return_inverse=True)[1]
    meeting = users.astype(np.int64) * (int(items.max(initial=0)) + 1) + items
    second = (domains[inside] == pair[1]).astype(np.int64)
    # bit 1 tells the domain, bit 0 the label: the opposite row differs in both
    code = meeting * 4 + second * 2 + labels[inside].astype(np.int64)
    chosen = np.zeros(len(domains), bool)
    chosen[inside[np.isin(code ^ 3, code)]] = True
    return chosen


def _thresholds(norms: Floats, big: float | None, small: float | None) -> tuple[float, float]:
    usual = norm_thresholds(norms)
    return (usual[0] if big is None else big), (usual[1] if small is None else small)


def _norms(norms_BE: ArrayLike) -> Floats:
    norms = _finite(norms_BE)
    if norms.ndim != 2:
        raise ValueError(f"norms [B, E] are needed, got shape {norms.shape}")
    return norms


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {array.size} values are not finite")
    return array
