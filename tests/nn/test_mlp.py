import numpy as np
import torch

from mdr_dist.nn.mlp import MLP, start


def test_relu_follows_every_layer_the_last_too() -> None:
    mlp = MLP((3, 5, 4)).double()
    x = torch.randn(50, 3, dtype=torch.float64)
    expected = x.numpy()
    for name in ("0", "1"):
        layer = mlp.get_submodule(f"layers.{name}")
        assert isinstance(layer, torch.nn.Linear)
        expected = np.maximum(expected @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0)
    np.testing.assert_allclose(mlp(x).detach(), expected, rtol=1e-12)
    assert (expected == 0).any()
    assert (expected > 0).any()


def test_weights_start_with_glorot_s_deviation_and_biases_at_zero() -> None:
    weight, bias = torch.empty(300, 100), torch.ones(100)
    start(weight, bias)
    assert abs(weight.std().item() / (2 / 400) ** 0.5 - 1) < 0.02
    assert abs(weight.mean().item()) < 0.002
    assert not bias.any()


def test_dropout_scales_what_it_keeps() -> None:
    mlp = MLP((3, 2000), dropout=0.25)
    x = torch.rand(1, 3)
    kept = mlp(x)[0]
    full = mlp.eval()(x)[0]
    live = full > 0
    dropped = (kept[live] == 0).float().mean().item()
    assert 0.2 < dropped < 0.3
    both = live & (kept > 0)
    torch.testing.assert_close(kept[both], full[both] / 0.75)
