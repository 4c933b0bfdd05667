"""Update rules: how a stage's losses become gradients. What each one does is in `train/update.py`.

Shape letters: K losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Sum:
    """Update rule: the gradient of the weighted sum of the losses. A loss without a weight counts once."""

    weights: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Masked:
    """Update rule: as `Sum`, but each looked-up row's gradient is multiplied, coordinate by coordinate.

    `factors` gives [dim] factors by table name and is asked at every step; a table that it leaves out keeps its
    gradient. A coordinate with the factor 0 moves by no bit, where the table's optimizer state began with the mask.
    """

    factors: Callable[[], Mapping[str, Tensor]]
    weights: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, kw_only=True)
class GradNorm:
    """Update rule: the `balanced` losses count by trained weights, which even out how fast the losses fall.

    Chen et al., "GradNorm", ICML 2018. At every step, with g_k the gradient of loss k by `shared`, over all processes,

        G_k = w_k |g_k|,   r_k = L_k / mean L,   the weights' own loss = sum_k | G_k - mean G * r_k^asymmetry |

    whose last term is held constant. Losses fall from the same start for all, so that r_k needs none. After the step
    the weights are at least `floor` and, if `renormalise`, their mean is 1. A loss of 0 is one that had no rows: its
    weight stays and it counts in no mean. `weights` are those of the other losses, as in `Sum`.

    balanced   names of losses;  shared, trained  give the shared parameter and the weights [K], at every step anew
    """

    balanced: tuple[str, ...]
    shared: Callable[[], Tensor]
    trained: Callable[[], Tensor]
    asymmetry: float
    renormalise: bool = True
    floor: float = 1e-4
    weights: Mapping[str, float] = field(default_factory=dict[str, float])


UpdateRule = Sum | Masked | GradNorm  # further rules join this union
