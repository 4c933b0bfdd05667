"""CL4Rec against its equations in numpy, and its masks' promise: what an earlier domain holds does not move."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.errors import UserError
from mdr_dist.launch.process import group_of_one
from mdr_dist.methods.base import Method
from mdr_dist.methods.cl4rec import annealed
from mdr_dist.stage import matches
from mdr_dist.train.run import plan_of
from support.groups import in_group
from support.jobs import small_job, train, weights
from support.rows import build, look_up, make_batch, make_tables

NAMES = ("user", "item")


def prepared(**settings: Any) -> tuple[Method, dict[str, Tensor], Batch]:
    batch = make_batch(12, domains=(1,))
    negative = torch.tensor(np.random.default_rng(1).integers(0, 9, 12))
    batch = replace(batch, ids={**batch.ids, "negative_0": negative})
    model = build({"name": "cl4rec", "dim": 6, **settings})
    return model, look_up(model, make_tables(model), batch), batch


def gate(mask: Tensor, *, hard: bool) -> np.ndarray:
    soft = 1 / (1 + np.exp(-mask.detach().numpy()))
    return (soft > 0.5).astype(float) if hard else soft


@pytest.mark.parametrize("mask", ["soft", "hard"])
def test_losses_and_the_gradient_of_masks(mask: str) -> None:
    model, rows, batch = prepared(mask=mask, order=["b"])
    hard = mask == "hard"
    user_gate, item_gate = (gate(masks[1], hard=hard) for masks in (model.user_mask, model.item_mask))
    soft = gate(model.user_mask[1], hard=False)
    gaps, lengths, slopes = [], [], []
    for at in range(12):
        u, i, j = (rows[name][at].detach().numpy() for name in ("user.user", "item.item", "item.negative_0"))
        lengths.append((u * user_gate) @ (u * user_gate) + sum((v * item_gate) @ (v * item_gate) for v in (i, j)))
        if batch.label[at] > 0:
            gap = (u * user_gate) @ ((i - j) * item_gate)
            gaps.append(np.log1p(np.exp(-gap)))
            slopes.append(-1 / (1 + np.exp(gap)) * u * ((i - j) * item_gate) * soft * (1 - soft))
    losses = model.domain_losses(rows, batch, domain=1)
    assert losses["bpr"].item() == pytest.approx(np.mean(gaps), rel=1e-12)
    assert losses["l2"].item() == pytest.approx(np.mean(lengths), rel=1e-12)
    losses["bpr"].backward()
    # the gradient passes the threshold as if it were not there
    assert model.user_mask[1].grad.numpy() == pytest.approx(np.mean(slopes, axis=0), rel=1e-9)
    assert model.user_mask[0].grad is None and model.user_mask[2].grad is None


def test_one_representation_of_all_domains_learnt_so_far() -> None:
    model, rows, batch = prepared(mask="soft", order=["c", "a"])
    plain = {"user": rows["user.user"], "item": rows["item.item"]}
    assert torch.equal(model.user_vector(rows, batch), plain["user"])  # before anything is learnt
    for domain in (2, 0):
        model.domain_losses(rows, batch, domain=domain)
    found = {"user": model.user_vector(rows, batch), "item": model.item_vector(rows, batch)}
    for name, masks in zip(NAMES, (model.user_mask, model.item_mask), strict=True):
        largest = np.maximum(gate(masks[0], hard=False), gate(masks[2], hard=False))
        assert found[name].detach().numpy() == pytest.approx(plain[name].detach().numpy() * largest, rel=1e-12)


def test_what_is_free_is_what_no_earlier_mask_holds() -> None:
    model, _, _ = prepared(mask="soft", order=["c", "a", "b"])
    assert model.free(0) == {}
    first, second = (gate(model.item_mask[k], hard=False) for k in (2, 0))
    assert model.free(1)["item"].numpy() == pytest.approx(1 - first, rel=1e-12)
    assert model.free(2)["item"].numpy() == pytest.approx(1 - np.maximum(first, second), rel=1e-12)
    assert not model.free(2)["item"].requires_grad
    assert prepared(specialize=False)[0].free(2) == {}
    assert prepared(masking="off")[0].free(2)["user"].tolist() == [0.0] * 6


def test_how_much_is_free_is_a_loss_that_trains_nothing() -> None:
    model, rows, batch = prepared(order=["b", "c"])
    assert model.domain_losses(rows, batch, domain=1)["free"].item() == 1.0
    held = sum(gate(masks[1], hard=True).sum() for masks in (model.user_mask, model.item_mask))
    losses = model.domain_losses(rows, batch, domain=2)
    assert losses["free"].item() == pytest.approx(1 - held / 12, rel=1e-12) and 0 < held < 12
    assert all(stage.update.weights["free"] == 0 for stage in model.stages())
    for other in ({"specialize": False}, {"masking": "off"}):
        model, rows, batch = prepared(order=["b", "c"], **other)
        model.domain_losses(rows, batch, domain=1)
        assert model.domain_losses(rows, batch, domain=2)["free"].item() == float("specialize" in other)


def test_a_later_order_goes_on_from_an_earlier_one() -> None:
    stages = {n: prepared(order=["c", "a", "b"][:n])[0].stages() for n in (1, 2, 3)}
    for n in (1, 2):
        for ours, theirs in zip(stages[n], stages[3], strict=False):
            assert (ours.name, ours.data, ours.train) == (theirs.name, theirs.data, theirs.train)
            assert len(ours.before) == len(theirs.before)
    assert [stage.name for stage in stages[3]] == ["domain-c", "domain-a", "domain-b"]


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (["a", "z"], "domain 'z' is not in data set tiny: its domains are a, b, c"),
        (["a", "b", "a"], "method.order: a, b, a; name a domain once"),
    ],
)
def test_a_wrong_order(order: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        prepared(order=order)


def test_a_domain_whose_forerunner_was_not_learnt() -> None:
    model, rows, batch = prepared(order=["a", "b"])
    with pytest.raises(UserError, match=r"method\.order: a, which is not trained on here, is to come before b"):
        model.domain_losses(rows, batch, domain=1)


@pytest.mark.parametrize(("backbone", "layers"), [("mf", 0), ("graph", 4), ("autoencoder", 4)])
def test_the_backbones_own_weights_are_trained_in_the_first_domain_alone(backbone: str, layers: int) -> None:
    model = build({"name": "cl4rec", "dim": 4, "backbone": backbone, "layers": [3], "inner": [3]})
    names = [name for name, _ in model.named_parameters() if name.startswith("backbone.")]
    assert len(names) == layers
    for place, stage in enumerate(model.stages()):
        assert [name for name in names if matches(name, stage.train)] == (names if place == 0 else [])
        assert set(model.free(1)) == {spec.name for spec in model.tables()}


@pytest.mark.parametrize("progress", [0.0, 0.37, 1.0])
def test_hats_annealing(progress: float) -> None:
    scale = 1 / 400 + (400 - 1 / 400) * progress
    mask = torch.linspace(-6, 6, 41, dtype=torch.float64).requires_grad_()
    found = annealed(mask, progress)
    e = mask.detach().numpy()
    assert found.detach().numpy() == pytest.approx(expit(scale * e), rel=1e-12)
    upstream = torch.linspace(1, 2, 41, dtype=torch.float64)
    plain = torch.autograd.grad(((scale * mask).sigmoid() * upstream).sum(), mask)[0].numpy()
    factor = 400 / scale * (np.cosh(np.clip(scale * e, -50, 50)) + 1) / (np.cosh(e) + 1)
    (found * upstream).sum().backward()
    assert mask.grad is not None
    assert mask.grad.numpy() == pytest.approx(plain * factor, rel=1e-12)
    inner = np.abs(scale * e) < 30  # there it is 400 times the gradient of the plain sigmoid
    soft = 1 / (1 + np.exp(-e))
    expected = 400 * soft * (1 - soft) * upstream.numpy()
    assert inner.any() and mask.grad.numpy()[inner] == pytest.approx(expected[inner], rel=1e-3)


def test_hats_regularizer_and_bounds() -> None:
    model, rows, batch = prepared(order=["b", "c"], annealing="hat", mask="soft", mask_std=0.003)
    with torch.no_grad():
        model.user_mask[2][0], model.item_mask[2][1] = 9.0, -9.0
    model.domain_losses(rows, batch, domain=1)
    batch = replace(batch, progress=0.5)
    losses = model.domain_losses(rows, batch, domain=2)
    assert (model.user_mask[2][0], model.item_mask[2][1]) == (6.0, -6.0)
    scale, above, below = (1 / 400 + 400) / 2, 0.0, 0.0
    for masks in (model.user_mask, model.item_mask):
        before, own = (expit(s * masks[k].detach().numpy()) for k, s in ((1, 400.0), (2, scale)))
        above, below = above + (own * (1 - before)).sum(), below + (1 - before).sum()
    assert losses["sparsity"].item() == pytest.approx(above / below, rel=1e-3)
    assert model.stages()[1].update.weights["sparsity"] == 0.75
    model.eval()  # then the scale is that of the end, whatever the step
    found = model.domain_losses(rows, batch, domain=2)["bpr"]
    at_end = model.train().domain_losses(rows, replace(batch, progress=1.0), domain=2)["bpr"]
    assert torch.equal(found, at_end) and not torch.equal(found, losses["bpr"])


def _tables_after_each_domain(method: str, dataset: str, runs: str, tables: dict[str, str]) -> list[dict[str, Tensor]]:
    """Tables and masks after every stage: runs that end there."""
    # with patience a stage would go back to its best state
    job = small_job(method, dataset, method={"patience": 0, "dim": 32}, tables=tables)
    counts = [plan_of(job).source(job).steps(stage.data) * 2 for stage in plan_of(job).stages]
    ends = np.cumsum(counts) + np.arange(len(counts))
    found = []
    for place, end in enumerate(ends.tolist()):
        mine = job.model_copy(update={"name": f"after-{place}"})
        run = train(mine, runs, stop_at=0 if place == len(ends) - 1 else end)
        found.append(weights(run, mine))
    return found


@pytest.mark.parametrize(
    ("method", "world", "placement", "optimizer"),
    [
        ("cl4rec", 1, "table_wise", "rowwise_adagrad"),
        ("cl4rec", 1, "table_wise", "adam"),
        ("cl4rec", 2, "row_wise", "rowwise_adagrad"),
        ("cl4rec", 2, "row_wise", "adam"),
        *((f"cl4rec-{kind}", 1, "table_wise", "rowwise_adagrad") for kind in ("graph", "autoencoder")),
        *((f"cl4rec-{kind}", 2, "row_wise", "adam") for kind in ("graph", "autoencoder")),
    ],
)
def test_what_an_earlier_domain_holds_moves_by_no_bit(
    method: str, world: int, placement: str, optimizer: str, dataset: str, tmp_path: Path
) -> None:
    tables = {"placement": placement, "optimizer": optimizer}
    work = partial(_tables_after_each_domain, method, dataset, str(tmp_path), tables)
    if world == 1:
        with group_of_one():
            after = work()
    else:
        after = in_group(world, work)[0]
    names = ("encoder", "decoder") if "autoencoder" in method else NAMES
    layers = [name for name in after[0] if name.startswith("backbone.")]
    for name, mask in zip(names, NAMES, strict=True):
        held = torch.zeros(32, dtype=torch.bool)
        for place in range(1, len(after)):
            held |= after[-1][f"{mask}_mask.{place - 1}"].sigmoid() > 0.5
            before, now = (after[at][f"tables/{name}"] for at in (place - 1, place))
            assert 0 < held.sum() < len(held)
            assert torch.equal(before[:, held], now[:, held])
            assert not torch.equal(before[:, ~held], now[:, ~held])
            assert all(torch.equal(after[0][layer], after[place][layer]) for layer in layers)


def test_all_domains_are_measured_after_each_one(dataset: str, tmp_path: Path) -> None:
    job = small_job("cl4rec", dataset, method={"forgetting": True})
    with group_of_one():
        train(job, str(tmp_path), stop_at=30)  # in the second domain
        run = train(job, str(tmp_path))
    metrics = json.loads((Path(run) / "metrics.json").read_text())
    names = [stage.name for stage in plan_of(job).stages]
    assert list(metrics["after"]) == names == ["domain-d0", "domain-d1", "domain-d2"]
    assert metrics["after"][names[-1]] == metrics["test"]
    assert metrics["after"][names[0]]["d0"] != metrics["test"]["d0"]
