from typing import Any, cast

import pytest
import torch

from mdr_dist.stage import Sum
from mdr_dist.train.update import backward, weighted_sum


def losses_of(x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"linear": 3 * x, "square": x**2, "broken": x * float("nan")}


def test_the_sum_and_its_gradient_by_hand() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    rule = Sum({"square": 0.5, "broken": 0.0})  # linear has no weight: it counts once; one of weight 0 does not
    assert float(weighted_sum(rule, losses_of(x)).detach()) == 3 * 2 + 0.5 * 4
    backward(rule, losses_of(x))
    assert float(x.grad) == 3 + 0.5 * 2 * 2  # type: ignore[arg-type]


def test_a_weight_without_a_loss_is_refused() -> None:
    with pytest.raises(KeyError, match=r"\['sqare'\]"):
        weighted_sum(Sum({"sqare": 2.0}), losses_of(torch.tensor(1.0)))


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(TypeError, match="no update rule str"):
        backward(cast(Any, "sum"), losses_of(torch.tensor(1.0)))
