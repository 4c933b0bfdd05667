# budget: one oracle serves every test here
"""Crocodile against its equations, written out in numpy one row, one expert and one dimension at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mdr_dist import catalog
from mdr_dist.batch import Batch
from mdr_dist.errors import UserError
from mdr_dist.methods.crocodile import CovLoss, Crocodile, CrocodileConfig
from mdr_dist.rule import Sum
from support.groups import in_group
from support.rows import SCHEMA, arrays, build, cut, gradients, gradients_of_each, look_up, make_batch, make_tables

M, D = 3, 4
SMALL: dict[str, Any] = {
    "name": "crocodile",
    "num_experts": M,
    "dim": 2,
    "prior_dim": 3,
    "experts": (5, D),
    "towers": (6,),
    "alpha": 1e-3,
}
FIELDS = ("user.user", "item.item", "item.history", "domain.domain", "tags.tags")


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.0)


def softmax(x: list[float]) -> list[float]:
    powers = [math.exp(v) for v in x]
    return [power / sum(powers) for power in powers]


def network(x: np.ndarray, weights: dict[str, np.ndarray], prefix: str, copy: int, *, last: bool) -> np.ndarray:
    """One MLP of a stack, layer by layer; `last`: with ReLU on the output."""
    depth = sum(name.startswith(prefix) and name.endswith("weight") for name in weights)
    for layer in range(depth):
        x = x @ weights[f"{prefix}.layers.{layer}.weight"][copy]
        if f"{prefix}.layers.{layer}.bias" in weights:
            x = x + weights[f"{prefix}.layers.{layer}.bias"][copy]
        if layer < depth - 1 or last:
            x = relu(x)
    return x


def oracle(model: Crocodile, rows: dict[str, Tensor], batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits [B], expert outputs [B, M, D], gates [B, M, D], by equations 3, 4, 5, 8, 9 and 10."""
    w, config = arrays(model), model.config
    found = {key: row.detach().numpy() for key, row in rows.items()}
    size, sets = len(batch), config.sets or M
    logits, outputs, gates = np.zeros(size), np.zeros((size, M, D)), np.zeros((size, M, D))
    for k in range(size):
        s = int(batch.domain[k])
        e = [np.concatenate([*(found[f"set{p}/{f}"][k] for f in FIELDS), batch.dense["price"][k]]) for p in range(sets)]
        for p in range(M):
            outputs[k, p] = network(e[p % sets], w, "mixture", p, last=True)
        if config.gate in ("peg", "pg"):
            driver = np.concatenate([found[f"prior/{f}.{f}"][k] for f in ("user", "item", "domain")])
        else:
            driver = e[s % sets]
        if config.gate == "none":
            gates[k] = 1 / M
        else:
            flat = network(driver, w, "gate.map", s, last=False)
            z = flat.reshape(M, D) if config.gate in ("peg", "eg") else np.repeat(flat[:, None], D, axis=1)
            if config.gate_softmax == "experts":
                for d in range(D):
                    gates[k, :, d] = softmax([z[p, d] for p in range(M)])
            else:
                for p in range(M):
                    gates[k, p] = softmax([z[p, d] for d in range(D)])
        t = np.zeros(D)
        for p in range(M):
            t += gates[k, p] * outputs[k, p]
        logits[k] = network(t, w, "towers", s, last=False)[0]
    return logits, outputs, gates


def covariance(outputs: np.ndarray, *, norm: str, own: bool) -> float:
    """Equation 6 entry by entry, over all the rows of `outputs` [N, M, D]."""
    n, total = len(outputs), 0.0
    mean = outputs.sum(axis=0) / n
    for p in range(outputs.shape[1]):
        for q in range(p + 1 if own else p):
            for i in range(outputs.shape[2]):
                for j in range(outputs.shape[2]):
                    entry = sum((o[p, i] - mean[p, i]) * (o[q, j] - mean[q, j]) for o in outputs)
                    total += abs(entry) / outputs.shape[2] ** 2
    return total * {"none": 4096 / n, "n": 1 / n, "n-1": 1 / (n - 1)}[norm]


def case(size: int = 11, *, batch: Batch | None = None, **settings: Any) -> tuple[Crocodile, dict[str, Tensor], Batch]:
    model = build({**SMALL, **settings})
    assert isinstance(model, Crocodile)
    batch = batch or make_batch(size)
    return model, look_up(model, make_tables(model), batch), batch


def randomize(model: Crocodile) -> None:
    """Biases start at 0: give them values that a mistake would show in."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype) * 0.3)


@pytest.mark.parametrize("sets", [0, 1])
@pytest.mark.parametrize(
    ("gate", "gate_softmax", "gate_hidden"),
    [
        ("peg", "experts", ()),
        ("peg", "dims", ()),
        ("pg", "experts", ()),
        ("eg", "experts", ()),
        ("eg", "dims", (4,)),
        ("me", "experts", (4, 3)),
        ("none", "experts", ()),
    ],
)
def test_score_is_equations_3_to_10(sets: int, gate: str, gate_softmax: str, gate_hidden: tuple[int, ...]) -> None:
    model, rows, batch = case(sets=sets, gate=gate, gate_softmax=gate_softmax, gate_hidden=gate_hidden)
    randomize(model)
    logits, outputs, gates = oracle(model, rows, batch)
    np.testing.assert_allclose(model.score(rows, batch).detach(), logits, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.experts(rows, batch).detach(), outputs, rtol=1e-12, atol=1e-12)
    shown = model.gates(rows, batch).detach()
    assert shown.shape == (11, M, D if gate in ("peg", "eg") else 1)
    np.testing.assert_allclose(shown.expand(11, M, D), gates, rtol=1e-12, atol=1e-12)


def test_eg_with_fewer_experts_than_domains_wraps_around() -> None:
    model, rows, batch = case(num_experts=2, gate="me")
    own = model.gates(rows, batch)
    third = batch.domain == 2  # domain 2 of 3 reads set 2 mod 2 = 0
    moved = {key: row + 1.0 if key.startswith("set0/") else row for key, row in rows.items()}
    changed = (model.gates(moved, batch) - own).abs().amax((1, 2)) > 0
    assert torch.equal(changed, third | (batch.domain == 0))


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("over", ["domains", "rows"])
def test_bce_is_equation_7(over: str, padding: int) -> None:
    (batch,) = cut(make_batch(11), 1, padding=padding)
    model, rows, batch = case(batch=batch, bce=over)
    logits = oracle(model, rows, batch)[0]
    per_domain: dict[int, list[float]] = {}
    for k in range(11):
        y, z = float(batch.label[k]), 1 / (1 + math.exp(-logits[k]))
        per_domain.setdefault(int(batch.domain[k]), []).append(-(y * math.log(z) + (1 - y) * math.log(1 - z)))
    assert len(per_domain) == 3
    if over == "domains":
        expected = sum(sum(values) / len(values) for values in per_domain.values())
    else:
        expected = sum(sum(values) for values in per_domain.values()) / 11
    assert model.losses(rows, batch)["bce"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("pairs", ["p>q", "p>=q"])
@pytest.mark.parametrize("norm", ["none", "n", "n-1"])
def test_covloss_is_equation_6(norm: str, pairs: str, padding: int) -> None:
    (batch,) = cut(make_batch(11), 1, padding=padding)
    model, rows, batch = case(batch=batch, cov_norm=norm, cov_pairs=pairs)
    outputs = oracle(model, rows, batch)[1][:11]
    expected = covariance(outputs, norm=norm, own=pairs == "p>=q")
    assert expected > 0
    assert model.losses(rows, batch)["cov"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("norm", ["none", "n", "n-1"])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_sampled_covloss_is_equation_6_on_the_sample(norm: str, count: int) -> None:
    (batch,) = cut(make_batch(11), 1, padding=2)
    model, rows, batch = case(batch=batch, cov_rows=count, cov_norm=norm)
    drawn = (batch.sample(count) >= 0).numpy()
    assert drawn.sum() == count
    outputs = oracle(model, rows, batch)[1][drawn]
    expected = covariance(outputs, norm=norm, own=False) if count > 1 else 0.0
    assert model.losses(rows, batch)["cov"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("cov_rows", [11, 4096])
def test_a_sample_of_all_rows_is_the_full_covloss(cov_rows: int) -> None:
    (batch,) = cut(make_batch(11), 1, padding=2)
    sampled, full = (gradients({**SMALL, "cov_rows": n, "cov_norm": "n-1"}, [batch]) for n in (cov_rows, 0))
    assert sampled.keys() == full.keys()
    for name, value in full.items():
        torch.testing.assert_close(sampled[name], value, rtol=1e-10, atol=1e-12)


def test_covloss_by_default_does_not_depend_on_the_number_of_rows() -> None:
    h_MBD = torch.rand(M, 20, D, dtype=torch.float64)
    cov = CovLoss(CrocodileConfig(num_experts=M))
    once = cov(h_MBD, make_batch(20))
    twice = cov(torch.cat([h_MBD, h_MBD], dim=1), make_batch(40))
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize("cov_rows", [0, 5])
@pytest.mark.parametrize("pairs", ["p>q", "p>=q"])
def test_covloss_gradient_by_finite_differences(pairs: Any, cov_rows: int) -> None:
    (batch,) = cut(make_batch(7), 1, padding=2)
    cov = CovLoss(CrocodileConfig(num_experts=M, cov_rows=cov_rows, cov_pairs=pairs, cov_norm="n"))
    h = torch.rand(M, 9, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    (found,) = torch.autograd.grad(cov(h, batch), h)
    step, wanted = 1e-6, torch.zeros_like(h)
    for index in np.ndindex(*h.shape):
        for sign in (1, -1):
            moved = h.detach().clone()
            moved[index] += sign * step
            wanted[index] += sign * cov(moved, batch) / (2 * step)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)
    assert not found[:, 7:].any(), "padding rows take no gradient"
    assert found[:, :7].any()


def test_two_processes_are_one() -> None:
    changes = ({}, {"cov_rows": 6}, {"gate": "me"}, {"cov_rows": 6, "sets": 1, "gate": "eg"}, {"bce": "rows"})
    settings = [{**SMALL, "alpha": 0.01, "l2": 0.1, **change} for change in changes]
    batch = replace(make_batch(13), seed=5)
    shares = cut(batch, 2)
    assert [float(share.weight.sum()) for share in shares] == [7, 6]
    alone = [gradients(each, [batch]) for each in settings]
    for together in in_group(2, gradients_of_each, settings, shares):
        for one, two, change in zip(alone, together, changes, strict=True):
            assert one.keys() == two.keys()
            assert {"loss/bce", "loss/cov", "loss/l2"} <= one.keys()
            for name in one:
                gap = (one[name] - two[name]).abs().max().item()
                assert gap <= 1e-9 * (1 + one[name].abs().max().item()), f"{change}: {name} is off by {gap}"


def test_a_domain_without_rows_is_left_alone() -> None:
    batch = make_batch(9, domains=(1,))
    found = gradients(SMALL, [batch])
    for name, value in found.items():
        assert torch.isfinite(value).all()
        if name.startswith(("towers", "gate")):
            assert not value[0].any(), name
            assert not value[2].any(), name
    assert found["towers.layers.0.weight"][1].any()
    assert found["gate.map.layers.0.weight"][1].any()
    model, rows, batch = case(batch=batch)
    np.testing.assert_allclose(model.score(rows, batch).detach(), oracle(model, rows, batch)[0], rtol=1e-12)


def test_l2_counts_looked_up_rows_of_real_rows() -> None:
    (batch,) = cut(make_batch(11), 1, padding=3)
    model, rows, batch = case(batch=batch)
    expected = sum((row[:11] ** 2).sum().item() for row in rows.values()) / 11
    assert model.losses(rows, batch)["l2"].item() == pytest.approx(expected, rel=1e-12)


def test_tables_are_m_sets_and_a_prior() -> None:
    specs = {spec.name: spec for spec in build(SMALL).tables()}
    assert list(specs) == [
        *(f"set{p}/{name}" for p in range(M) for name in ("user", "item", "domain", "tags")),
        *("prior/user", "prior/item", "prior/domain"),
    ]
    item, tags, prior = specs["set1/item"], specs["set1/tags"], specs["prior/item"]
    assert (item.rows, item.dim, item.features, item.pool) == (9, 2, ("item", "history"), "mean")
    assert (tags.rows, tags.pool) == (5, "mean")
    assert (prior.rows, prior.dim, prior.features, prior.pool) == (9, 3, ("item",), "sum")
    assert [spec.name for spec in build({**SMALL, "sets": 1, "gate": "me"}).tables()] == [
        *("set0/user", "set0/item", "set0/domain", "set0/tags")
    ]


def test_the_paper_s_gate_is_one_matrix_a_domain() -> None:
    gate = {name: value.shape for name, value in arrays(build(SMALL)).items() if name.startswith("gate")}
    assert gate == {"gate.map.layers.0.weight": (3, 3 * 3, M * D)}  # domains, prior widths, experts by dimensions
    per_expert = arrays(build({**SMALL, "gate": "pg"}))["gate.map.layers.0.weight"]
    assert per_expert.shape == (3, 3 * 3, M)


def test_losses_of_weight_0_are_left_out() -> None:
    model, rows, batch = case(alpha=0, l2=0)
    assert set(model.losses(rows, batch)) == {"bce"}
    assert model.stages()[0].update == Sum({})
    model, rows, batch = case(alpha=0.5, l2=0.25)
    assert set(model.losses(rows, batch)) == {"bce", "cov", "l2"}
    assert model.stages()[0].update == Sum({"cov": 0.5, "l2": 0.25})
    model, rows, batch = case(num_experts=1)
    assert "cov" not in model.losses(rows, batch), "one expert makes no pair"


def test_gate_stop_gradient_keeps_the_prior_still() -> None:
    for stop in (False, True):
        found = gradients({**SMALL, "l2": 0, "gate_stop_gradient": stop}, [make_batch(11)])
        assert found["gate.map.layers.0.weight"].any()
        assert bool(found["tables/prior/user"].any()) is not stop


def test_the_paper_s_settings_are_the_defaults() -> None:
    config = CrocodileConfig()
    assert (config.num_experts, config.gate, config.gate_hidden, config.cov_rows) == (5, "peg", (), 0)
    assert (config.cov_norm, config.cov_pairs, config.bce, config.domain_in_fields) == ("none", "p>q", "domains", True)


def test_weights_follow_the_seed_alone() -> None:
    one, two, other = (arrays(build(SMALL, seed=seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["mixture.layers.0.weight"], other["mixture.layers.0.weight"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sets": 2}, "sets must be 0"),
        ({"gate": "pg", "gate_softmax": "dims"}, "needs gate 'peg' or 'eg'"),
        ({"features": ("user", "colour")}, "no 'colour'; it has user, item, domain, history, price, tags"),
        ({"experts": ()}, "experts"),
        ({"gate": "pge"}, "gate"),
    ],
)
def test_wrong_settings_are_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        catalog.build({**SMALL, **settings}, SCHEMA, seed=0)
