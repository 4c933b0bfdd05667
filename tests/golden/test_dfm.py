"""DFM and R-DFM against their equations written out in numpy, one row and one entry at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mdr_dist.baselines.text.dfm import DFM
from mdr_dist.batch import Batch, Ragged
from mdr_dist.schema import Schema
from support.rows import build, look_up, make_tables
from support.text import SCHEMA, text_batch

SIZE, MOST = 23, 5
# the tables are made by hand, and hold all items
SHARED = {"scope": "shared", "starts": ()}
PAIR = Schema(
    name="pair",
    domains=SCHEMA.domains,
    features=tuple(feature.model_copy(update=SHARED) for feature in SCHEMA.features),
    labels=SCHEMA.labels,
)
METHODS = ("dfm", "r_dfm")
Rows = dict[str, Tensor]
Array = np.ndarray


class Case:
    """A method with all its tables, a batch, and the equations."""

    def __init__(self, name: str, *, by_user: bool = False, **settings: Any) -> None:
        words = {"word_dim": 6, "told": 0.7} if name == "r_dfm" else {}
        widths = {"dim": 4, "hidden": 5, "mapped": 3, "ratings": MOST, "rebuilt": 0.4, "l2": 0.2}
        model = build({"name": name, **widths, **words, **settings}, schema=PAIR)
        assert isinstance(model, DFM)
        with torch.no_grad():  # biases start at 0
            for number, parameter in enumerate(model.parameters()):
                generator = torch.Generator().manual_seed(number)
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.3)
        self.model, self.reviews = model, name == "r_dfm"
        self.batch, self.written = batch_of(by_user=by_user)
        self.tables = make_tables(model)
        self.rows: Rows = look_up(model, self.tables, self.batch)
        self.t = {name: table.detach().numpy() for name, table in self.tables.items()}
        self.w = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}

    def entries(self, role: str, k: int, at: int) -> list[tuple[int, float]]:
        name = f"rated_{k}" if role == "user" else "raters"
        ids, first = self.batch.lists[name], int(self.batch.lists[name].lengths[:at].sum())
        part = slice(first, first + int(ids.lengths[at]))
        return list(zip(ids.values[part].tolist(), self.batch.ratings[name][part].tolist(), strict=True))

    def side(self, role: str, k: int, at: int) -> Array:
        assert self.batch.documents
        kind = "item" if role == "item" else "user" if int(self.batch.domain[at]) == k else "other"
        words = self.written[int(self.batch.documents.at[kind][at])]
        vectors = [self.t[f"words/{k}"][word] for word in words]
        return np.array([max(vector[d] for vector in vectors) for d in range(6)]) if vectors else np.zeros(6)

    def code(self, role: str, k: int, at: int, *, kept: Array | None = None) -> Array:
        w = {n.removeprefix(f"coders.{role}_{k}."): x for n, x in self.w.items() if n.startswith(f"coders.{role}_{k}.")}
        kept = np.ones(MOST) if kept is None else kept
        x = np.zeros(5)
        for nth, (entry, rating) in enumerate(self.entries(role, k, at)):
            x += kept[nth] * rating * self.t[f"{role}_in/{k}"][entry]
        if not self.reviews:
            return w["code.weight"] @ np.tanh(x + w["bias"]) + w["code.bias"]
        s = self.side(role, k, at)
        h = np.tanh(x + w["side_in.weight"] @ s + w["bias"])
        return w["code.weight"] @ h + w["code.bias"] + w["side_code.weight"] @ s

    def missed(self, role: str, k: int, at: int, *, code: Array) -> tuple[float, float]:
        """Of ratings, and of the side information."""
        w = {n.removeprefix(f"coders.{role}_{k}."): x for n, x in self.w.items() if n.startswith(f"coders.{role}_{k}.")}
        h = np.tanh(w["back.weight"] @ code + w["back.bias"])
        errors = [(h @ self.t[f"{role}_out/{k}"][i] - r) ** 2 for i, r in self.entries(role, k, at)]
        told = (
            np.mean((w["side_out.weight"] @ h + w["side_out.bias"] - self.side(role, k, at)) ** 2)
            if self.reviews
            else 0
        )
        return float(np.mean(errors or [0.0])), float(told)

    def biases(self, k: int, at: int) -> tuple[float, float]:
        ids = self.batch.ids
        return float(self.t[f"user_bias/{k}"][ids["user"][at], 0]), float(self.t[f"item_bias/{k}"][ids["item"][at], 0])

    def mapped(self, code: Array) -> Array:
        hidden = np.tanh(self.w["mapping.0.weight"] @ code + self.w["mapping.0.bias"])
        return self.w["mapping.2.weight"] @ hidden + self.w["mapping.2.bias"]

    def losses(self, *, kept: Array | None = None) -> dict[str, float]:
        """Of a row in its domain, the mean over rows; `kept` [B, 2, M]."""
        found: dict[str, list[float]] = {"square": [], "rebuilt": [], "l2": [], "told": []}
        for at, k in enumerate(self.batch.domain.tolist()):
            codes = [
                self.code(role, k, at, kept=None if kept is None else kept[at, number])
                for number, role in enumerate(("user", "item"))
            ]
            missed = [self.missed(role, k, at, code=code) for role, code in zip(("user", "item"), codes, strict=True)]
            biases = self.biases(k, at)
            score = codes[0] @ codes[1] + float(self.batch.dense["mean"][at]) + sum(biases)
            found["square"].append((score - float(self.batch.label[at])) ** 2)
            found["l2"].append(sum(float(x @ x) for x in codes) + biases[0] ** 2 + biases[1] ** 2)
            for name, part in zip(("rebuilt", "told"), zip(*missed, strict=True), strict=True):
                found[name].append(sum(part))
        return {name: float(np.mean(each)) for name, each in found.items() if self.reviews or name != "told"}


def batch_of(*, by_user: bool) -> tuple[Batch, list[list[int]]]:
    """Rows of both domains, or of users; lists of 0 to MOST ratings, and users of whom some have none in the source."""
    batch, written = text_batch(SIZE, kinds=("user", "other", "item"))
    draw = np.random.default_rng(3)
    lists, ratings = dict(batch.lists), {}
    for name, size in (("rated_0", 9), ("rated_1", 9), ("raters", 7)):
        lengths = draw.integers(0, MOST + 1, SIZE) * (not by_user or name != "raters")
        lists[name] = Ragged(torch.tensor(draw.integers(0, size, lengths.sum())), torch.tensor(lengths))
        ratings[name] = torch.tensor(draw.normal(size=lengths.sum()))
    active = torch.tensor(draw.random((SIZE, 2)) < 0.6).double()
    batch = replace(batch, lists=lists, ratings=ratings, dense={**batch.dense, "active": active})
    return replace(batch, domain=torch.zeros_like(batch.domain)) if by_user else batch, written


def close(found: dict[str, Tensor], expected: dict[str, float]) -> None:
    assert {name: float(value.detach()) for name, value in found.items()} == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_the_losses_of_the_auto_encoders(name: str) -> None:
    case = Case(name)
    case.model.eval()
    close(case.model.losses(case.rows, case.batch), case.losses())
    case.model.train()
    case.model.config = case.model.config.model_copy(update={"noise": 0.0})
    close(case.model.losses(case.rows, case.batch), case.losses())
    told = {"told": 0.7} if name == "r_dfm" else {}
    for k, stage in enumerate(case.model.stages()[:2]):
        assert stage.update.weights == {"l2": 0.1, "rebuilt": 0.4, **told}
        assert stage.train == (f"*/{k}", f"coders.*_{k}.*") and stage.read == (f"*/{k}",)
        # while a domain is trained only its own tables are at hand
        own = {key: row for key, row in case.rows.items() if f"/{k}." in key}
        case.batch = replace(case.batch, domain=torch.full_like(case.batch.domain, k))
        close(case.model.losses(own, case.batch), case.losses())


@pytest.mark.parametrize("name", METHODS)
def test_noise_drops_entries_in_training(name: str) -> None:
    case = Case(name, noise=0.5)
    uniform = case.batch.uniform(2, MOST).numpy()
    kept = np.where(uniform < 0.5, 0.0, 2.0)
    assert 0.4 < (kept == 0).mean() < 0.6 and not (kept[:, 0] == kept[:, 1]).all()
    noisy = case.losses(kept=kept)
    close(case.model.train().losses(case.rows, case.batch), noisy)
    assert abs(noisy["square"] - case.losses()["square"]) > 1e-3


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("name", METHODS)
def test_who_is_mapped(name: str, target: int) -> None:
    case = Case(name, target=PAIR.domains[target])
    batch, source, expected, moved = case.batch, 1 - target, [], 0
    for at, k in enumerate(batch.domain.tolist()):
        user, bias = case.code("user", k, at), case.biases(k, at)[0]
        if k == target and batch.dense["active"][at, source]:
            user, bias = case.mapped(case.code("user", source, at)), case.biases(source, at)[0]
            moved += 1
        usual = float(batch.dense["mean"][at]) + bias + case.biases(k, at)[1]
        expected.append(float(user @ case.code("item", k, at)) + usual)
    assert 0 < moved < int((batch.domain == target).sum())
    assert case.model.eval().score(case.rows, batch).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_the_mapping_learns_from_codes_without_noise(name: str) -> None:
    case = Case(name, by_user=True, noise=0.5)
    gaps = [case.mapped(case.code("user", 0, at)) - case.code("user", 1, at) for at in range(SIZE)]
    close(case.model.train().map_losses(case.rows, case.batch), {"distance": float(np.mean(np.square(gaps)))})
    stage = case.model.stages()[-1]
    assert stage.train == ("mapping.*",) and stage.needs == ("factor-source", "factor-target")
    assert (stage.data.unit, stage.data.users) == ("user", "common")


def test_the_words_gain_nothing_by_being_alike() -> None:
    """What is told counts as fixed: words move for it only as far as codes are made of them."""
    case = Case("r_dfm")
    losses = case.model.losses(case.rows, case.batch)
    assert all(x.abs().sum() > 0 for x in _to_words(losses["told"], case))
    with torch.no_grad():
        for key, parameter in case.model.named_parameters():
            if "side_in" in key or "side_code" in key:
                parameter.zero_()
    losses = case.model.losses(case.rows, case.batch)
    assert losses["told"] > 0 and not any(x.any() for x in _to_words(losses["told"], case))


def _to_words(loss: Tensor, case: Case) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [case.tables[f"words/{k}"] for k in (0, 1)], retain_graph=True))


def test_what_batches_bring_and_tables_hold() -> None:
    for name in METHODS:
        model = build({"name": name, "dim": 4, "hidden": 6, "ratings": 9}, schema=SCHEMA)
        specs = {spec.name: spec for spec in model.tables()}
        assert model.extras.ratings == 9 and model.extras.active and model.extras.means
        assert model.extras.documents == (("user", "other", "item") if name == "r_dfm" else ())
        # a user's code is made of rows of the domain's items, an item's of rows of users
        assert [(specs[f"user_in/{k}"].rows, specs[f"user_in/{k}"].start) for k in (0, 1)] == [(4, 0), (5, 4)]
        for k in (0, 1):
            for end in ("in", "out"):
                users, items = specs[f"user_{end}/{k}"], specs[f"item_{end}/{k}"]
                assert (users.features, items.features, items.rows) == ((f"rated_{k}",), ("raters",), 7)
                assert users.pool == items.pool == "none" and users.dim == items.dim == 6
            assert specs[f"user_bias/{k}"].dim == specs[f"item_bias/{k}"].dim == 1
        words = {key for key in specs if key.startswith("words")}
        assert words == ({"words/0", "words/1"} if name == "r_dfm" else set())
        assert model.pretrained() == dict.fromkeys(sorted(words), "review")
