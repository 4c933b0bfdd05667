import pytest
import torch

from mdr_dist.stage import Masked, Sum
from mdr_dist.train.update import backward, weighted_sum


def losses_of(x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"linear": 3 * x, "square": x**2, "broken": x * float("nan")}


def test_the_sum_and_its_gradient_by_hand() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    rule = Sum({"square": 0.5, "broken": 0.0})  # linear has no weight: it counts once; one of weight 0 does not
    assert float(weighted_sum(rule, losses_of(x)).detach()) == 3 * 2 + 0.5 * 4
    backward(rule, losses_of(x), {})
    assert float(x.grad) == 3 + 0.5 * 2 * 2  # type: ignore[arg-type]


def test_a_weight_without_a_loss_is_refused() -> None:
    with pytest.raises(KeyError, match=r"\['sqare'\]"):
        weighted_sum(Sum({"sqare": 2.0}), losses_of(torch.tensor(1.0)))


def test_masks_multiply_the_gradients_of_the_tables_that_they_name() -> None:
    leaves = {name: torch.ones(2, 3, requires_grad=True) for name in ("user.user", "item.item", "item.negative_0")}
    loss = sum(number * leaf.sum() for number, leaf in enumerate(leaves.values(), 1))
    factor = torch.tensor([1.0, 0.0, 0.5])
    backward(Masked(lambda: {"item": factor}, {"size": 2.0}), {"size": loss}, leaves)  # type: ignore[dict-item]
    assert leaves["user.user"].grad.tolist() == [[2.0] * 3] * 2  # type: ignore[union-attr]
    assert leaves["item.item"].grad.tolist() == [[4.0, 0.0, 2.0]] * 2  # type: ignore[union-attr]
    assert leaves["item.negative_0"].grad.tolist() == [[6.0, 0.0, 3.0]] * 2  # type: ignore[union-attr]


def test_a_table_that_no_loss_reached_needs_no_factor() -> None:
    x, leaf = torch.tensor(1.0, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    backward(Masked(lambda: {"item": torch.zeros(3)}), {"linear": 3 * x}, {"item.item": leaf})
    assert leaf.grad is None and float(x.grad) == 3  # type: ignore[arg-type]
