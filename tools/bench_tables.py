"""What a step of the tables alone costs: look-up, backward with the fused optimizer, and torch's own way beside it.

    tools/bench_tables.py [--features 20 --sets 5 --dim 16 --rows 100000 --batch 4096] [--threads 1]

Ids are uniform: the worst case for the caches. Rounds take turns, so that the machine's noise falls on all alike.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mdr_dist.batch import Batch
from mdr_dist.config import TablesConfig
from mdr_dist.launch.process import group_of_one
from mdr_dist.stage import Stage, TableSpec
from mdr_dist.tables import Tables, build_tables, collection

ROUNDS, STEPS = 4, 5
Step = Callable[[Batch], None]


def batch_of(args: argparse.Namespace) -> Batch:
    """A batch of uniform ids."""
    zeros = torch.zeros(args.batch)
    ids = {f"f{i}": torch.randint(0, args.rows, (args.batch,)) for i in range(args.features)}
    return Batch(
        ids=ids, lists={}, dense={}, labels={}, domain=zeros.long(), user_key=zeros.long(), weight=zeros + 1,
        position=zeros.long(), count=args.batch, domains=1,
    )  # fmt: skip


def sharded(args: argparse.Namespace, gradients: list[Tensor], *, fold: bool, optimizer: str) -> Step:
    """A step of torchrec's tables in one process."""
    collection.FOLD_THREADS = args.threads if fold else 0
    specs = tuple(
        TableSpec(name=f"set{s}/f{f}", rows=args.rows, dim=args.dim, features=(f"f{f}",))
        for s in range(args.sets)
        for f in range(args.features)
    )
    stage = Stage(name="bench", loss=lambda _rows, _batch: {})
    config = TablesConfig.model_validate({"optimizer": optimizer})
    tables: Tables = build_tables(specs, (stage,), config=config, device=torch.device("cpu"), seed=0)
    tables.start_stage(stage)

    def step(batch: Batch) -> None:
        torch.autograd.backward(list(tables(batch).values()), gradients)
        tables.step()

    return step


def plain(args: argparse.Namespace, gradients: list[Tensor]) -> Step:
    """A step of as many sparse `nn.EmbeddingBag`s, by SGD."""
    bags = [
        (f"f{f}", nn.EmbeddingBag(args.rows, args.dim, mode="sum", sparse=True))
        for _ in range(args.sets)
        for f in range(args.features)
    ]
    optimizer = torch.optim.SGD([bag.weight for _, bag in bags], lr=0.02)
    starts = torch.arange(args.batch)

    def step(batch: Batch) -> None:
        torch.autograd.backward([bag(batch.ids[feature], starts) for feature, bag in bags], gradients)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"features": 20, "sets": 5, "dim": 16, "rows": 100_000, "batch": 4096, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    batches = [batch_of(args) for _ in range(STEPS)]
    gradients = [torch.randn(args.batch, args.dim) for _ in range(args.features * args.sets)]
    with group_of_one():
        steps = {
            "rowwise_adagrad, keys folded": sharded(args, gradients, fold=True, optimizer="rowwise_adagrad"),
            "rowwise_adagrad, not folded": sharded(args, gradients, fold=False, optimizer="rowwise_adagrad"),
            "sgd": sharded(args, gradients, fold=False, optimizer="sgd"),
            "nn.EmbeddingBag, sparse, sgd": plain(args, gradients),
        }
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for _, name, batch in itertools.product(range(ROUNDS), steps, batches):
            start = time.perf_counter()
            steps[name](batch)
            taken[name].append(1e3 * (time.perf_counter() - start))
    print("| tables | median step, ms | least, ms | rows looked up/s |\n|---|---|---|---|")
    looked_up = args.batch * args.features * args.sets
    for name, all_times in taken.items():
        times = all_times[STEPS:]  # the first round warms up
        median = statistics.median(times)
        print(f"| {name} | {median:.1f} | {min(times):.1f} | {1e3 * looked_up / median:,.0f} |")


if __name__ == "__main__":
    main()
