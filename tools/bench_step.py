"""What one training step costs, and what of it the covariance loss.

    tools/bench_step.py [--users 100000] [--batch 4096] [--steps 30] [--device cpu] [--out tools/results/step.md]

Trains Crocodile on a synthetic data set of 5 domains × 20 features with no covariance loss, with 32 sampled rows and
with all rows, in turns within one run, so that the machine's noise falls on all three alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from mdr_dist.config import Job
from mdr_dist.data.synthetic import configure, synthesize
from mdr_dist.launch.process import group_of_one
from mdr_dist.train.run import build_trainer, check
from mdr_dist.train.step import train_step
from mdr_dist.train.trainer import Trainer

VARIANTS = {"no covariance loss": {"alpha": 0.0}, "32 rows": {"cov_rows": 32}, "all rows": {"cov_rows": 0}}
EXPERTS = [256, 128]


def trainer_of(dataset: str, folder: str, *, variant: dict[str, float], args: argparse.Namespace) -> Trainer:
    """A trainer of Crocodile with one form of the covariance loss."""
    method = {"name": "crocodile", "dim": 16, "experts": EXPERTS, "towers": [64], **variant}
    job = Job.model_validate({"name": "bench", "data": {"path": dataset, "batch": args.batch}, "method": method})
    device = torch.device(args.device)
    return build_trainer(job, check(job), run=folder, device=device)


def seconds(trainer: Trainer, steps: int) -> list[float]:
    """The time of each of `steps` steps, input read beforehand."""
    stage = trainer.stages[0]
    trainer.tables.start_stage(stage)
    dense = trainer.make_dense(stage)
    times: list[float] = []
    for batch in trainer.source.batches(stage.data, stage=stage.name, epoch=0):
        moved = batch.to(trainer.device)
        start = time.perf_counter()
        train_step(trainer.tables, stage, batch=moved, dense=dense)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        if len(times) == steps:
            break
    return times


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = max(args.batch * (args.steps + 1), 100_000)
    with tempfile.TemporaryDirectory(prefix="mdr-bench-") as folder, group_of_one():
        dataset = f"{folder}/data"
        settings = (f"users={args.users}", "domains=5", "features=20", f"rows={rows}")
        synthesize(dataset, configure("large", settings))
        trainers = {
            name: trainer_of(dataset, f"{folder}/{name}", variant=variant, args=args)
            for name, variant in VARIANTS.items()
        }
        taken: dict[str, list[float]] = {name: [] for name in trainers}
        for _ in range(args.rounds):
            for name, trainer in trainers.items():
                taken[name] += seconds(trainer, args.steps)[2:]
    base = statistics.median(taken["no covariance loss"])
    lines = ["| covariance loss | median step, ms | rows/s | against none |", "|---|---|---|---|"]
    for name, times in taken.items():
        step = statistics.median(times)
        lines.append(f"| {name} | {1e3 * step:.1f} | {args.batch / step:,.0f} | {100 * (step / base - 1):+.1f} % |")
    text = "\n".join(lines)
    print(text)
    if args.out:
        where = "CPU" if args.device == "cpu" else torch.cuda.get_device_name()
        head = f"`tools/bench_step.py --batch {args.batch} --device {args.device}`; {where}, "
        head += f"{torch.get_num_threads()} threads\n\n"
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(head + text + "\n")


if __name__ == "__main__":
    main()
