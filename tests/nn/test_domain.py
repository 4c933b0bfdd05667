import numpy as np
import pytest
import torch

from mdr_dist.nn.domain import DomainGroups, DomainMLP
from mdr_dist.nn.experts import StackedLinear

DOMAIN = torch.tensor([2, 0, 2, 3, 0, 0, 2])  # of five: none in 1 and 4


def test_groups_keep_batch_order_within_a_domain_and_join_undoes_split() -> None:
    groups, x = DomainGroups(DOMAIN, 5), torch.arange(14.0).view(7, 2)
    parts = groups.split(x)
    assert [part[:, 0].tolist() for part in parts] == [[2, 8, 10], [], [0, 4, 12], [6], []]
    assert torch.equal(groups.join(parts), x)


def test_groups_gradient_is_the_permutation_s() -> None:
    x = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    groups = DomainGroups(DOMAIN, 5)

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return groups.join([part * (k + 1) for k, part in enumerate(groups.split(x))])

    torch.testing.assert_close(scaled(x), x * (DOMAIN + 1)[:, None])
    weights = torch.randn(7, 2, dtype=torch.float64)
    (found,) = torch.autograd.grad((scaled(x) * weights).sum(), x)
    torch.testing.assert_close(found, weights * (DOMAIN + 1)[:, None])


@pytest.mark.parametrize("bias", [True, False])
def test_each_row_goes_through_its_own_domain_s_network(bias: bool) -> None:
    torch.manual_seed(0)
    mlp = DomainMLP(5, (3, 4, 2), bias=bias).double()
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    x = torch.randn(7, 3, dtype=torch.float64)
    expected = []
    for start, k in zip(x.numpy(), DOMAIN.tolist(), strict=True):
        row = start
        for i, layer in enumerate(mlp.layers):
            assert isinstance(layer, StackedLinear)
            row = (np.maximum(row, 0) if i else row) @ layer.weight[k].detach().numpy()
            row = row + layer.bias[k].detach().numpy() if layer.bias is not None else row
        expected.append(row)
    out = mlp(x, DomainGroups(DOMAIN, 5))
    np.testing.assert_allclose(out.detach(), expected, rtol=1e-12)
    assert (out < 0).any(), "no ReLU on the output"
    out.square().sum().backward()
    for name, parameter in mlp.named_parameters():
        assert parameter.grad is not None
        assert [bool(grad.any()) for grad in parameter.grad] == [True, False, True, True, False], name


def test_a_batch_of_one_row() -> None:
    mlp = DomainMLP(5, (3, 1))
    assert mlp(torch.randn(1, 3), DomainGroups(torch.tensor([4]), 5)).shape == (1, 1)
