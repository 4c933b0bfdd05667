"""Against torch's optimizers used by hand, and hand-worked numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mdr_dist.config import DenseConfig
from mdr_dist.stage import DenseOptimizer, Stage
from mdr_dist.train.dense import DenseOptimizers

BY_HAND = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))


def backward(model: nn.Module, step: int) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
    model(x).square().sum().backward()


def made(model: nn.Module, config: dict[str, Any], /, **stage: Any) -> DenseOptimizers:
    return DenseOptimizers(model, Stage(name="s", loss=lambda rows, batch: {}, **stage), DenseConfig(**config))


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", BY_HAND)
def test_steps_are_torch_s(name: str) -> None:
    ours, theirs = net(), net()
    dense = made(ours, {"optimizer": name, "lr": 0.1, "weight_decay": 0.01})
    optimizer = BY_HAND[name](theirs.parameters(), lr=0.1, weight_decay=0.01)
    for step in range(3):
        backward(ours, step)
        dense.step()
        optimizer.zero_grad()
        backward(theirs, step)
        optimizer.step()
    assert same(ours, theirs)


def test_the_first_pattern_that_fits_chooses_the_optimizer() -> None:
    ours, theirs = net(), net()
    rules = {"2.*": DenseOptimizer("sgd", 0.5), "*.bias": DenseOptimizer("adagrad", 0.2)}
    dense = made(ours, {"lr": 0.05}, optimizers=rules)
    first, last = theirs[0], theirs[2]
    optimizers = [
        torch.optim.SGD(last.parameters(), lr=0.5),
        torch.optim.Adagrad([first.bias], lr=0.2),
        torch.optim.Adam([first.weight], lr=0.05),
    ]
    for step in range(3):
        backward(ours, step)
        dense.step()
        backward(theirs, step)
        for optimizer in optimizers:
            optimizer.step()
        theirs.zero_grad()
    assert same(ours, theirs)


def test_what_a_stage_does_not_train_is_frozen_and_has_no_state() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dense = made(model, {}, train=("2.*",))
    backward(model, 0)
    dense.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"2.weight", "2.bias"}
    assert {name.rpartition("/")[0] for name in dense.state()} == moved
    assert not model[0].weight.requires_grad
    made(model, {}, train=("*",))  # the next stage trains it again
    assert model[0].weight.requires_grad


def test_a_parameter_that_no_row_reached_is_stepped_with_gradient_zero() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    made(model, {"optimizer": "sgd", "lr": 1.0, "weight_decay": 0.25}).step()
    assert float(model.weight.detach()) == 2.0 - 0.25 * 2.0


def test_clip_bounds_the_norm_over_all_parameters() -> None:
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    dense = made(model, {"optimizer": "sgd", "lr": 1.0, "clip": 1.0})
    (3 * model.weight + 4 * model.bias).sum().backward()  # the gradient (3, 4) has norm 5
    dense.step()
    assert model.weight.item() == pytest.approx(-0.6, abs=1e-5)
    assert model.bias.item() == pytest.approx(-0.8, abs=1e-5)


@pytest.mark.parametrize("name", BY_HAND)
def test_state_goes_on_where_it_was(name: str) -> None:
    models = [net(), net()]
    whole, first = (made(model, {"optimizer": name, "lr": 0.1}) for model in models)
    for step in range(4):
        backward(models[0], step)
        whole.step()
    for step in range(2):
        backward(models[1], step)
        first.step()
    saved = {key: value.clone() for key, value in first.state().items()}
    second = made(models[1], {"optimizer": name, "lr": 0.1})
    backward(models[1], 9)  # of the future that is taken back
    second.step()
    models[1].load_state_dict(_at(2, name))
    second.load_state(saved)
    for step in (2, 3):
        backward(models[1], step)
        second.step()
    assert same(*models)


def _at(steps: int, name: str) -> dict[str, Any]:
    model = net()
    dense = made(model, {"optimizer": name, "lr": 0.1})
    for step in range(steps):
        backward(model, step)
        dense.step()
    return model.state_dict()


def test_state_of_what_another_stage_trains_is_passed_over() -> None:
    dense = made(net(), {}, train=("2.*",))
    dense.load_state({"0.weight/exp_avg": torch.zeros(3, 4)})
    assert dense.state() == {}


@pytest.mark.parametrize("name", BY_HAND)
def test_no_state_is_a_fresh_start(name: str) -> None:
    model = net()
    dense = made(model, {"optimizer": name, "lr": 0.1})
    for step in range(2):
        backward(model, step)
        dense.step()
    dense.load_state({})
    model.load_state_dict(net().state_dict())
    backward(model, 0)
    dense.step()
    assert all(torch.equal(value, _at(1, name)[key]) for key, value in model.state_dict().items())
