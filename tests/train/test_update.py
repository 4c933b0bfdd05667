import numpy as np
import pytest
import torch

from mdr_dist.rule import GradNorm, Masked, Sum
from mdr_dist.train.update import backward, settle, weighted_sum


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


@pytest.mark.parametrize("absent", [(), (1,)])
@pytest.mark.parametrize("asymmetry", [0.0, 1.5])
def test_balancing_by_hand(absent: tuple[int, ...], asymmetry: float) -> None:
    """Three losses of a network of two layers, z = relu(x A) W, each the mean square of its column of z less y."""
    draw = np.random.default_rng(0)
    x, a, w, y = (draw.normal(size=size) for size in ((6, 3), (3, 4), (4, 3), (6, 3)))
    weight, scale = np.array([0.5, 1.5, 1.0]), np.array([1.0, 10.0, 0.1])
    scale[list(absent)] = 0
    hidden = np.maximum(x @ a, 0)
    miss = hidden @ w - y
    value = scale * (miss**2).mean(0)
    norm = np.array([np.linalg.norm(2 * scale[k] * hidden.T @ miss[:, k] / 6) for k in range(3)])
    there = [k for k in range(3) if k not in absent]
    size, rate = weight * norm, value / value[there].mean()
    expected = [
        np.sign(size[k] - size[there].mean() * rate[k] ** asymmetry) * norm[k] if k in there else 0.0 for k in range(3)
    ]
    assert np.abs(expected).max() > 0.01

    layers = [torch.tensor(part, requires_grad=True) for part in (a, w)]
    trained = torch.tensor(weight, requires_grad=True)
    z = torch.relu(torch.tensor(x) @ layers[0]) @ layers[1]
    losses = {f"l{k}": scale[k] * (z[:, k] - torch.tensor(y[:, k])).square().mean() for k in range(3)}
    losses["size"] = layers[0].square().sum()
    rule = GradNorm(
        balanced=("l0", "l1", "l2"), shared=lambda: layers[1], trained=lambda: trained, asymmetry=asymmetry,
        weights={"size": 0.5},
    )  # fmt: skip
    told = backward(rule, losses, {})
    assert trained.grad is not None and np.allclose(trained.grad.numpy(), expected, rtol=0, atol=1e-10)
    assert np.allclose([float(told[f"norm/l{k}"]) for k in range(3)], size, atol=1e-10)
    assert [float(told[f"weight/l{k}"]) for k in range(3)] == weight.tolist()
    # the network's own gradient is that of the weighted sum
    behind = (hidden > 0) * (2 * scale * weight * miss / 6 @ w.T)
    assert np.allclose(layers[0].grad.numpy(), x.T @ behind + a, atol=1e-10)  # type: ignore[union-attr]

    with torch.no_grad():
        trained -= 0.1 * trained.grad
    after = np.maximum(weight - 0.1 * np.array(expected), 1e-4)
    settle(rule)
    assert np.allclose(trained.detach().numpy(), after * 3 / after.sum(), atol=1e-10)


def test_a_batch_without_rows_leaves_the_weights() -> None:
    shared, trained = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    rule = GradNorm(balanced=("a", "b"), shared=lambda: shared, trained=lambda: trained, asymmetry=1.5)
    backward(rule, {"a": shared.sum() * 0, "b": shared.sum() * 0}, {})
    assert trained.grad is not None and trained.grad.tolist() == [0, 0]


def test_what_the_weights_are_kept_to() -> None:
    trained = torch.tensor([-1.0, 2.0], requires_grad=True)
    one = torch.ones(())
    settle(GradNorm(balanced=("a", "b"), shared=lambda: one, trained=lambda: trained, asymmetry=1, renormalise=False))
    assert trained.tolist() == pytest.approx([1e-4, 2.0])
    settle(Sum())


def test_a_loss_100_times_the_other_comes_down_to_it() -> None:
    """Two regressions by one matrix: rates r come together; with the asymmetry 0 norms do, and rates do not."""

    def spread(asymmetry: float) -> float:
        torch.manual_seed(0)
        x = torch.randn(64, 8, dtype=torch.float64)
        y = x @ torch.randn(8, 8, dtype=torch.float64)
        shared = torch.zeros(8, 8, dtype=torch.float64, requires_grad=True)
        trained = torch.ones(2, dtype=torch.float64, requires_grad=True)
        rule = GradNorm(balanced=("a", "b"), shared=lambda: shared, trained=lambda: trained, asymmetry=asymmetry)
        network, weights = torch.optim.SGD([shared], lr=5e-4), torch.optim.Adam([trained], lr=0.025)
        losses: dict[str, torch.Tensor] = {}
        for _ in range(400):
            miss = (x @ shared - y).square().mean(0)
            losses = {"a": 100 * miss[:4].mean(), "b": miss[4:].mean()}
            backward(rule, losses, {})
            for optimizer in (network, weights):
                optimizer.step()
                optimizer.zero_grad()
            settle(rule)
        a, b = (losses[name].item() for name in "ab")
        return abs(a - b) / (a + b)

    even, balanced = spread(0.0), spread(1.0)
    assert even > 0.7 and balanced < 0.6 * even, (even, balanced)
