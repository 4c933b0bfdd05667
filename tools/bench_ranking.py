"""What full ranking costs beside the matrix product that it cannot do without, and beside numpy's way.

    tools/bench_ranking.py [--users 20000 --items 100000 --dim 64 --k 20] [--threads 1] [--out tools/results/ranking.md]

Vectors are random, so scores are in no order: a trained model's floors rise sooner if popular items come first, later
if last. Rounds take turns, so that the machine's noise falls on all alike.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from bench_file import arguments, commit, show
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.config import DataConfig, EvalConfig, TablesConfig
from mdr_dist.data import layout
from mdr_dist.data.source import Dataset, Source
from mdr_dist.eval.ranking import ITEMS, USERS, rank
from mdr_dist.eval.top import CHUNK, TopScores
from mdr_dist.launch.process import group_of_one
from mdr_dist.methods.base import Method, MethodConfig
from mdr_dist.schema import Feature, Schema
from mdr_dist.stage import Init, Rows, Slice, TableSpec
from mdr_dist.tables import build_tables

ROUNDS, TRAIN, TEST = 3, 50, 5  # TRAIN and TEST: rows a user
CPU = torch.device("cpu")
Work = Callable[[], int]  # returns the users done


class Factors(Method):
    """A row for each user and each item."""

    task = "retrieve"
    dim = 0

    def tables(self) -> tuple[TableSpec, ...]:
        """The two tables."""
        names, start = ("user", "item"), Init("normal", 1.0)
        return tuple(
            TableSpec(name=n, rows=self.schema[n].rows, dim=self.dim, features=(n,), init=start) for n in names
        )

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """The user's row."""
        del batch
        return rows["user.user"]

    def item_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """The item's row."""
        del batch
        return rows["item.item"]


def write_log(path: str, users: int, items: int) -> Dataset:
    """TRAIN and TEST random items a user, and every item once in training."""
    rng = np.random.default_rng(0)
    features = tuple(Feature(name=n, kind="id", rows=r) for n, r in (("user", users + 1), ("item", items + 1)))
    schema = Schema(name="log", domains=("all",), features=(*features, Feature(name="domain", kind="id", rows=1)))
    with layout.NewDataset(path) as new:
        shards: list[layout.Shard] = []
        for split, each in (("train", TRAIN), ("test", TEST)):
            user = np.repeat(np.arange(1, users + 1), each)
            item = rng.integers(1, items + 1, len(user))
            if split == "train":
                user = np.append(user, rng.integers(1, users + 1, items))
                item = np.append(item, np.arange(1, items + 1))
            found = {"user": user, "item": item, "label": np.ones(len(user)), "user_key": user}
            fields = layout.arrow_schema(schema)
            writer = layout.ShardWriter(new.root, fields, domain="all", split=split)
            writer.write(pa.table([pa.array(found[f.name]).cast(f.type) for f in fields], schema=fields))
            shards += writer.close()
        new.commit(schema, shards, {})
    return Dataset.open(path)


def works(args: argparse.Namespace, evaluation: Work) -> dict[str, Work]:
    """What is timed, by name."""
    user_vectors, item_vectors = torch.randn(args.users, args.dim), torch.randn(args.items, args.dim)
    size = math.ceil(args.items / math.ceil(args.items / ITEMS) / CHUNK) * CHUNK
    scores = torch.empty(USERS, size)
    blocks = [part for part in user_vectors.split(USERS) if len(part) == USERS]
    parts = [torch.cat([part, part[: size - len(part)]]) for part in item_vectors.split(size)]

    def product(keep: bool) -> int:
        for block in blocks:
            best = TopScores(USERS, args.k, device=CPU)
            for part in parts:
                torch.mm(block, part.T, out=scores)
                if keep:
                    best.add(scores)
            if keep:
                best.result()
        return len(blocks) * USERS

    def partition() -> int:
        done, matrix = 4 * 256, item_vectors.numpy().T
        for at in range(0, done, 256):
            whole = user_vectors[at : at + 256].numpy() @ matrix
            np.argpartition(whole, -args.k, axis=1)[:, -args.k :]
        return done

    return {
        "bare product in blocks: the limit": lambda: product(keep=False),
        "product and best scores": lambda: product(keep=True),
        "`rank`: look-ups, masks, metrics and all": evaluation,
        "product, then `numpy.argpartition` of every row": partition,
    }


def timed(args: argparse.Namespace) -> dict[str, list[float]]:
    """Users a second in each round."""
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, group_of_one():
        dataset = write_log(f"{folder}/log", args.users, args.items)
        source = Source(dataset, DataConfig(path=dataset.path), seed=0)
        Factors.dim = args.dim
        method = Factors(MethodConfig(), dataset.schema)
        tables = build_tables(method.tables(), method.stages(), config=TablesConfig(), device=CPU, seed=0)

        def evaluation() -> int:
            config = EvalConfig(ks=(args.k,))
            found = rank(method, tables, source=source, slice_=Slice(split="test"), config=config, device=CPU)
            return found["all"]["users"]

        every = works(args, evaluation)
        for _, name in itertools.product(range(ROUNDS + 1), every):
            start = time.perf_counter()
            done = every[name]()
            rates.setdefault(name, []).append(done / (time.perf_counter() - start))
    return {name: rate[1:] for name, rate in rates.items()}  # the first round warms up and maps files


def report(args: argparse.Namespace, rates: dict[str, list[float]]) -> str:
    """The table, under the command that makes it."""
    size = f"--users {args.users} --items {args.items} --dim {args.dim} --k {args.k} --threads {args.threads}"
    limit = statistics.median(next(iter(rates.values())))
    lines = [
        "# Full ranking",
        "",
        f"    tools/bench_ranking.py {size} --out tools/results/ranking.md",
        "",
        f"{datetime.date.today()}, commit {commit()}, torch {torch.__version__}, numpy {np.__version__}, "
        f"{platform.machine()}, {args.threads} thread(s). Median of {ROUNDS} rounds in turn.",
        "",
        "| what | users/s, median | least | most | of the limit |",
        "|---|---|---|---|---|",
    ]
    for name, rate in rates.items():
        middle = statistics.median(rate)
        lines.append(f"| {name} | {middle:,.0f} | {min(rate):,.0f} | {max(rate):,.0f} | {middle / limit:.0%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    args = arguments(__doc__, {"users": 20_000, "items": 100_000, "dim": 64, "k": 20, "threads": 1})
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    show(report(args, timed(args)), args.out)


if __name__ == "__main__":
    main()
