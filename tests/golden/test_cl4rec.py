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
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.errors import UserError
from mdr_dist.launch.process import group_of_one
from mdr_dist.methods.base import Method
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
    model, rows, batch = prepared(mask=mask)
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
    model, rows, batch = prepared(mask="soft")
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


def test_an_order_that_lacks_a_domain() -> None:
    with pytest.raises(UserError, match=r"method\.order: a, z; name each of a, b, c once"):
        prepared(order=["a", "z"])


def _tables_after_each_domain(dataset: str, runs: str, placement: str, optimizer: str) -> list[dict[str, Tensor]]:
    """Tables and masks after every stage: runs that end there."""
    tables = {"placement": placement, "optimizer": optimizer}
    # with patience a stage would go back to its best state
    job = small_job("cl4rec", dataset, method={"patience": 0, "dim": 32}, tables=tables)
    counts = [plan_of(job).source(job).steps(stage.data) * 2 for stage in plan_of(job).stages]
    ends = np.cumsum(counts) + np.arange(len(counts))
    found = []
    for place, end in enumerate(ends.tolist()):
        mine = job.model_copy(update={"name": f"after-{place}"})
        run = train(mine, runs, stop_at=0 if place == len(ends) - 1 else end)
        found.append(weights(run, mine))
    return found


@pytest.mark.parametrize(
    ("world", "placement", "optimizer"),
    [
        (1, "table_wise", "rowwise_adagrad"),
        (1, "table_wise", "adam"),
        (2, "row_wise", "rowwise_adagrad"),
        (2, "row_wise", "adam"),
    ],
)
def test_what_an_earlier_domain_holds_moves_by_no_bit(
    world: int, placement: str, optimizer: str, dataset: str, tmp_path: Path
) -> None:
    work = partial(_tables_after_each_domain, dataset, str(tmp_path), placement, optimizer)
    if world == 1:
        with group_of_one():
            after = work()
    else:
        after = in_group(world, work)[0]
    for name in NAMES:
        held = torch.zeros(len(after[0][f"{name}_mask.0"]), dtype=torch.bool)
        for place in range(1, len(after)):
            held |= after[-1][f"{name}_mask.{place - 1}"].sigmoid() > 0.5
            before, now = (after[at][f"tables/{name}"] for at in (place - 1, place))
            assert 0 < held.sum() < len(held)
            assert torch.equal(before[:, held], now[:, held])
            assert not torch.equal(before[:, ~held], now[:, ~held])


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
