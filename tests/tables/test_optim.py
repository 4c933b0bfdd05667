"""The textbook optimizers against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdr_dist.config import TablesConfig
from mdr_dist.tables.optim import new_state, update


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad", "adam"])
def test_textbook_optimizers_against_numpy(optimizer: str) -> None:
    rng = np.random.default_rng(0)
    config = TablesConfig(optimizer=optimizer, lr=0.1, eps=1e-6)
    w = rng.normal(size=(4, 3))
    weight = torch.tensor(w, dtype=torch.float64)
    state = {key: value.double() for key, value in new_state(weight, config).items()}
    first, second = np.zeros_like(w), np.zeros_like(w)
    for step in range(1, 6):
        g = rng.normal(size=(4, 3))
        g[2] = 0
        update(weight, torch.tensor(g), state=state, config=config)
        if optimizer == "sgd":
            w = w - 0.1 * g
        elif optimizer == "adagrad":
            first += g**2
            w = w - 0.1 * g / (np.sqrt(first) + 1e-6)
        elif optimizer == "rowwise_adagrad":
            first += (g**2).mean(1, keepdims=True)
            w = w - 0.1 * g / (np.sqrt(first) + 1e-6)
        else:
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
            w = w - 0.1 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-6)
        assert np.allclose(weight.numpy(), w, atol=1e-12)
