"""CoNet against its layers, written out in numpy one row at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdr_dist import catalog
from mdr_dist.batch import Batch
from mdr_dist.config import DataConfig, EvalConfig, TablesConfig
from mdr_dist.data.source import Source
from mdr_dist.errors import UserError
from mdr_dist.eval.ranking import rank
from mdr_dist.methods.base import Method
from mdr_dist.schema import Feature, Schema
from mdr_dist.stage import Slice
from mdr_dist.tables import PlainTables
from support.retrieval import DOMAINS, ITEMS, USERS, Oracle, Row, write_log
from support.rows import SCHEMA, arrays, build, look_up, make_batch, make_tables

STARTS = (0, 3, 6)  # of each domain's items
SETTINGS: dict[str, Any] = {"name": "conet", "dim": 4, "layers": [6, 5, 3], "negatives": 2, "init_std": 0.5}
Array = np.ndarray


def schema_of(starts: tuple[int, ...]) -> Schema:
    feature: dict[str, Any] = {"scope": "domain", "starts": starts} if starts else {}
    item = Feature(name="item", kind="id", rows=9, vocabulary="item", **feature)
    return Schema(name="own", domains=SCHEMA.domains, features=(SCHEMA.features[0], item, *SCHEMA.features[2:]))


def batch_of(size: int) -> Batch:
    """Items of the rows' own domains; histories of any."""
    batch, draw = make_batch(size), np.random.default_rng(1)
    drawn = {name: 3 * batch.domain + torch.tensor(draw.integers(0, 3, size)) for name in ("item", "negative_0")}
    drawn["negative_1"] = 3 * batch.domain + torch.tensor(draw.integers(0, 3, size))
    return replace(batch, ids={**batch.ids, **drawn})


def draw_biases(model: Method) -> None:
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))


def made(size: int = 15, starts: tuple[int, ...] = STARTS, **settings: Any) -> tuple[Method, dict[str, Any], Batch]:
    """A model with biases that are not 0, its rows, and their batch."""
    batch, model = batch_of(size), build(SETTINGS | settings, schema=schema_of(starts))
    draw_biases(model)
    return model, {n: row.detach() for n, row in look_up(model, make_tables(model), batch).items()}, batch


class Program:
    """The networks, one user and one item at a time."""

    def __init__(self, model: Method) -> None:
        self.w, self.crossed = arrays(model), len(model.cross)  # type: ignore[arg-type]

    def layers(self, user: Array, item: Array, domain: int, sources: list[Array]) -> tuple[list[Array], float]:
        """What goes into each layer, and the logit."""
        w, activations = self.w, [np.concatenate([user, item])]
        names = ["first", *(f"deep.{number}" for number in range(2))]
        for number, name in enumerate(names):
            if name == "first":
                both = [w[f"{part}_part.layers.0.weight"][domain] for part in ("user", "item")]
                weight, bias = np.concatenate(both), w["user_part.layers.0.bias"][domain]
            else:
                weight, bias = (w[f"{name}.layers.0.{part}"][domain] for part in ("weight", "bias"))
            found = activations[-1] @ weight + bias
            if number < len(sources):
                found = found + w[f"cross.{number}.weight"] @ sources[number]
            activations.append(np.maximum(found, 0))
        logit = activations[-1] @ w["head.layers.0.weight"][domain, :, 0] + w["head.layers.0.bias"][domain, 0]
        return activations, float(logit)

    def sources(self, user: Array, taken: list[tuple[Array, int]]) -> list[Array]:
        """s of each layer with H, from items and their domains."""
        each = [self.layers(user, item, domain, [])[0] for item, domain in taken]
        sizes = [self.w[f"cross.{number}.weight"].shape[1] for number in range(self.crossed)]
        return [
            np.mean([one[number] for one in each], axis=0) if each else np.zeros(size)
            for number, size in enumerate(sizes)
        ]


def taken_by(rows: dict[str, Any], batch: Batch, at: int, *, starts: tuple[int, ...]) -> list[tuple[Array, int]]:
    """Vectors and domains of what the row's user took elsewhere."""
    history, k = batch.lists["history"], int(batch.domain[at])
    end = int(history.lengths[: at + 1].sum())
    found = []
    for place in range(end - int(history.lengths[at]), end):
        item = int(history.values[place])
        there = item // 3 != k if starts else item != int(batch.ids["item"][at])
        if there:
            found.append((rows["item.history"][place].numpy(), item // 3 if starts else k))
    return found


@pytest.mark.parametrize("crossed", [1, 2, 3])
@pytest.mark.parametrize("starts", [STARTS, ()])
def test_scores_and_losses(starts: tuple[int, ...], crossed: int) -> None:
    model, rows, batch = made(starts=starts, cross_layers=crossed)
    program, losses, lengths, counts = Program(model), [], [], []
    score = model.score(rows, batch).tolist()
    for at, k in enumerate(batch.domain.tolist()):
        names = ("item.item", "item.negative_0", "item.negative_1")
        u, *items = (rows[name][at].numpy() for name in ("user.user", *names))
        taken = taken_by(rows, batch, at, starts=starts)
        counts.append(len(taken))
        sources = program.sources(u, taken)
        positive, *drawn = (program.layers(u, item, k, sources)[1] for item in items)
        assert score[at] == pytest.approx(positive, rel=1e-10)
        lengths.append(sum(vector @ vector for vector in (u, *items)))
        if batch.label[at] > 0:
            losses.append(np.log1p(np.exp(-positive)) + sum(np.log1p(np.exp(logit)) for logit in drawn))
    assert 0 in counts and max(counts) > 1 and set(batch.domain.tolist()) == {0, 1, 2}
    norm = sum(np.abs(program.w[f"cross.{number}.weight"]).sum() for number in range(crossed))
    found = {name: value.item() for name, value in model.losses(rows, batch).items()}
    assert found == pytest.approx({"log_loss": np.mean(losses), "l2": np.mean(lengths), "sparse": norm}, rel=1e-10)
    assert model.weights() == {"l2": 0.5e-4, "sparse": 0.1}  # type: ignore[operator]
    assert set(model.eval().losses(rows, batch)) == {"log_loss", "l2"}


def test_sparsity_may_be_none() -> None:
    model, rows, batch = made(sparsity=0, l2=0)
    assert set(model.losses(rows, batch)) == {"log_loss"}
    assert model.stages()[0].update.weights == {}


@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_pairs_score_as_rows_do(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every user with every item of a domain: by their vectors, and as rows that hold both; however users are cut."""
    monkeypatch.setattr("mdr_dist.baselines.cross.conet.BLOCK", block)
    model, rows, batch = made(18)
    users, items = model.user_vector(rows, batch), model.item_vector(rows, batch)
    assert users.shape[1] == 11 and items.shape[1] == 6
    for k in range(3):
        here = (batch.domain == k).nonzero().squeeze(1)
        found = model.pair_scores(users[here], items[here], domain=k)
        assert len(here) > 2 and found.shape == (len(here), len(here))
        for number, at in enumerate(here.tolist()):
            swapped = {**rows, "item.item": rows["item.item"][at].expand(18, 4)}
            expected = model.score(swapped, batch)[here]
            assert found[:, number].tolist() == pytest.approx(expected.tolist(), rel=1e-10)
        several = model.pair_scores(users[here][:, None], items[here].expand(len(here), -1, -1), domain=k)
        assert torch.allclose(several[:, 0], found, rtol=1e-10)
    assert not model.inner_product


def test_what_users_took_elsewhere_counts() -> None:
    """Without H, or without histories, other scores come out; users who took nothing elsewhere keep theirs."""
    model, rows, batch = made()
    before = model.score(rows, batch)
    alone = torch.tensor([not taken_by(rows, batch, at, starts=STARTS) for at in range(len(batch))])
    for cross in model.cross:  # type: ignore[union-attr]
        cross.weight.data.zero_()
    moved = (model.score(rows, batch) - before).abs() > 1e-6
    assert torch.equal(moved, ~alone) and alone.any() and (~alone).any()


def test_ranking_counts_what_users_took_elsewhere(tmp_path: Path) -> None:
    """Figures of full ranking, against scores of every user and item by the training rows of the other domain."""
    draw, log = np.random.default_rng(4), list[Row]()
    for split, rows in (("train", 120), ("test", 40)):
        for domain in DOMAINS:
            user, item = draw.integers(1, 25, rows), draw.integers(1, 40, rows)
            log += [Row(split, domain, *found) for found in zip(user.tolist(), item.tolist(), strict=True)]
    dataset = write_log(str(tmp_path / "log"), log)
    model = catalog.build(SETTINGS, dataset.schema, seed=0)
    draw_biases(model)
    tables = PlainTables.build(
        model.tables(), model.stages(), config=TablesConfig(), device=torch.device("cpu"), seed=7
    )
    users, items = (tables.state()[f"{name}/weight"].double().numpy() for name in ("user", "item"))
    source, config = Source(dataset, DataConfig(path=dataset.path), seed=3, extras=model.extras), EvalConfig(ks=(3, 10))
    found = rank(
        model, tables, source=source, slice_=Slice(split="test"), config=config, device=torch.device("cpu")
    )  # fmt: skip
    program = Program(model.double())
    for k, domain in enumerate(DOMAINS):
        oracle, scores, reached = Oracle(log, "test", domain, (3, 10)), np.zeros((USERS, ITEMS)), 0
        for user in oracle.users():
            there = {row.item for row in log if (row.split, row.domain, row.user) == ("train", DOMAINS[1 - k], user)}
            taken = [(items[(1 - k) * ITEMS + item], 1 - k) for item in there]
            sources, reached = program.sources(users[user], taken), reached + bool(taken)
            for item in oracle.lists[user][0]:
                scores[user, item] = program.layers(users[user], items[k * ITEMS + item], k, sources)[1]
        expected = oracle.means(scores)
        assert {name: found[domain][name] for name in expected} == pytest.approx(expected, abs=1e-9)
        assert reached > 0 and found[domain]["ndcg@10"] != pytest.approx(expected["random/ndcg@10"], abs=1e-3)


def test_units_reach_no_further_than_there_are_layers() -> None:
    with pytest.raises(UserError, match=r"method\.cross_layers: 4 of the 3 of method\.layers; ask for at most 3"):
        build(SETTINGS | {"cross_layers": 4})
    with pytest.raises(UserError, match=r"layers"):
        build(SETTINGS | {"layers": [6, 0]})
