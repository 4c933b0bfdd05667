"""Small tables of every kind, batches for them and a training loop on a fixed quadratic."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mdr_dist.batch import Batch, Ragged
from mdr_dist.stage import Init, Slice, Stage, TableSpec

CPU = torch.device("cpu")
ROWS, STEPS, WORLD, SHARE = 50, 50, 2, 23
SPECS = (
    TableSpec(name="set0/user", rows=ROWS, dim=8, features=("user",), init=Init("normal", 0.1)),
    TableSpec(name="set1/user", rows=ROWS, dim=8, features=("user",), init=Init("uniform", 0.1)),
    TableSpec(name="item", rows=ROWS, dim=16, features=("item", "history"), pool="mean"),
    TableSpec(name="tags", rows=20, dim=8, features=("tags",), pool="sum"),
    TableSpec(name="words", rows=30, dim=8, features=("words",), pool="none"),
    TableSpec(name="words_too", rows=30, dim=8, features=("words",), pool="none"),
    # a list that stays one beside ids; rows stored several times over
    TableSpec(name="sequence", rows=ROWS, dim=10, features=("item", "history"), pool="none"),
    TableSpec(name="bias", rows=ROWS, dim=1, features=("item", "history"), init=Init("normal", 0.1)),
    # blocks of the item ids: the others read row 0
    TableSpec(name="block0", rows=4, dim=8, features=("item",), start=0, init=Init("normal", 0.1)),
    TableSpec(name="block1", rows=ROWS - 1, dim=8, features=("item", "history"), start=1, pool="mean"),
    # fewer rows than processes
    TableSpec(name="one", rows=1, dim=8, features=("one",)),
    TableSpec(name="frozen", rows=ROWS, dim=8, features=("user",), init=Init("constant", 0.5)),
)
STAGE = Stage(name="joint", loss=lambda rows, batch: {}, train=("[!f]*",), data=Slice())


def batch_of(step: int, rank: int, world: int) -> Batch:
    """A process's share of a global batch of WORLD * SHARE rows: skewed ids, duplicates, empty lists; row 49 never."""
    rng = np.random.default_rng(step)
    size = WORLD * SHARE
    user, item = (np.minimum(rng.zipf(1.5, size) - 1, ROWS - 2) for _ in range(2))
    lists = {name: [rng.integers(0, rows, rng.integers(0, 4)) for _ in range(size)]
             for name, rows in (("history", ROWS - 1), ("tags", 20), ("words", 30))}  # fmt: skip
    own = range(rank * size // world, (rank + 1) * size // world)
    ragged = {
        name: Ragged(
            torch.from_numpy(np.concatenate([lists[name][i] for i in own]).astype(np.int64)),
            torch.tensor([len(lists[name][i]) for i in own]),
        )
        for name in lists
    }
    place = torch.tensor(list(own))
    ids = {"user": torch.from_numpy(user)[place], "item": torch.from_numpy(item)[place], "one": torch.zeros_like(place)}
    ids = dict(reversed(ids.items())) if step % 2 else ids  # the order of a batch's features must not matter
    zeros = torch.zeros(len(own))
    return Batch(
        ids=ids, lists=ragged, dense={}, labels={"label": zeros}, domain=zeros.long(), user_key=place,
        weight=zeros + 1, position=place, count=size, domains=1,
    )  # fmt: skip


def run_steps(
    tables: Any, names: set[str], *, rank: int, world: int, steps: range, device: torch.device = CPU
) -> list[float]:
    """Training steps on a fixed quadratic; the loss of each, this process's share."""
    tables.start_stage(STAGE)
    shares = []
    for step in steps:
        rows = tables(batch_of(step, rank, world).to(device))
        trained = {key: row for key, row in rows.items() if key.split(".")[0] in names}
        # each lookup has a target of its own, so that no two tables get the same gradient
        losses = [0.2 * ((row - 0.01 * (i + 1)) ** 2).sum() for i, row in enumerate(trained.values())]
        gradients = torch.autograd.grad(sum(losses), list(trained.values()), retain_graph=True)
        torch.autograd.backward(list(trained.values()), [g * world for g in gradients])
        tables.step()
        shares.append(float(torch.stack(losses).sum().detach()))
    return shares


def trained_names(specs: tuple[TableSpec, ...]) -> set[str]:
    """The tables that STAGE trains."""
    return {spec.name for spec in specs} - {"frozen"}
