import numpy as np
import pytest
import torch

from mdr_dist.nn.experts import StackedLinear, StackedMLP


def test_each_expert_is_a_network_of_its_own() -> None:
    torch.manual_seed(0)
    stack = StackedMLP(3, (4, 6, 5)).double()
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    x = torch.randn(3, 7, 4, dtype=torch.float64)
    found = stack(x).detach()
    assert found.shape == (3, 7, 5)
    for p in range(3):
        expected = x[p].numpy()
        for layer in stack.layers:
            assert isinstance(layer, StackedLinear)
            assert layer.bias is not None
            expected = np.maximum(expected @ layer.weight[p].detach().numpy() + layer.bias[p].detach().numpy(), 0)
        np.testing.assert_allclose(found[p], expected, rtol=1e-12)


def test_a_shared_input_is_the_same_as_copies_of_it() -> None:
    stack = StackedMLP(3, (4, 6, 5)).double()
    shared = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    copies = shared.detach().repeat(3, 1, 1).requires_grad_()
    one, three = stack(shared.expand(3, -1, -1)), stack(copies)
    torch.testing.assert_close(one, three)
    weights = torch.randn_like(one)
    (found,) = torch.autograd.grad((one * weights).sum(), shared)
    (wanted,) = torch.autograd.grad((three * weights).sum(), copies)
    torch.testing.assert_close(found, wanted.sum(0))


@pytest.mark.parametrize("bias", [True, False])
def test_copies_start_apart_each_with_its_own_deviation(bias: bool) -> None:
    layer = StackedLinear(3, 300, 100, bias=bias)
    for copy in layer.weight:
        assert abs(copy.std().item() / (2 / 400) ** 0.5 - 1) < 0.02  # as one matrix would, not as a 3-d kernel
    assert not torch.equal(layer.weight[0], layer.weight[1])
    assert (layer.bias is not None) is bias
