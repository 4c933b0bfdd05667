"""What one training step costs, and what of it the covariance loss.

    tools/bench_step.py [--users 100000] [--batch 4096] [--steps 40] [--device cpu] [--out tools/results/step.md]

Crocodile on a synthetic data set of 5 domains × 20 features with no covariance loss, with 32 sampled rows and with all
rows. Every batch is trained on by all three, whose order turns from batch to batch, so that the machine's noise falls
on all alike; what the loss adds is the median over batches of the difference of their steps. Such a difference is no
sharper than some per cent, so the loss is timed by itself too, forward and backward, on experts' outputs of that shape.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mdr_dist.batch import Batch
from mdr_dist.config import Job
from mdr_dist.data.synthetic import configure, synthesize
from mdr_dist.launch.process import group_of_one
from mdr_dist.methods.crocodile import CovLoss, CrocodileConfig
from mdr_dist.train.lane import build_trainer
from mdr_dist.train.run import check
from mdr_dist.train.step import train_step
from mdr_dist.train.trainer import Trainer

METHOD = {"name": "crocodile", "dim": 16, "experts": [256, 128], "towers": [64]}
NONE = "none"
VARIANTS = {NONE: {"alpha": 0.0}, "32 rows": {"cov_rows": 32}, "all rows": {"cov_rows": 0}}
WARM = 5  # batches


@dataclass
class Measured:
    """Seconds by batch: of a variant's step, and of its loss alone."""

    step: list[float]
    alone: list[float]


class Stepper:
    """A trainer of one variant, a step at a time."""

    def __init__(self, dataset: str, folder: str, *, variant: dict[str, float], args: argparse.Namespace) -> None:
        data = {"path": dataset, "batch": args.batch}
        job = Job.model_validate({"name": "bench", "data": data, "method": METHOD | variant})
        self.device = torch.device(args.device)
        self.trainer: Trainer = build_trainer(job, check(job), run=folder, device=self.device)
        self.stage = self.trainer.stages[0]
        self.trainer.tables.start_stage(self.stage)
        self.dense = self.trainer.make_dense(self.stage)
        config = CrocodileConfig.model_validate({k: v for k, v in (METHOD | variant).items() if k != "name"})
        self.loss = CovLoss(config) if config.alpha else None
        shape = (config.num_experts, args.batch, config.experts[-1])
        self.h_MBD = torch.rand(shape, device=self.device, requires_grad=True)

    def batches(self) -> Iterator[Batch]:
        """An epoch's batches."""
        return self.trainer.source.batches(self.stage.data, stage=self.stage.name, epoch=0)

    def step(self, batch: Batch) -> None:
        """Train on a batch."""
        train_step(self.trainer.tables, self.stage, batch=batch, dense=self.dense)

    def alone(self, batch: Batch) -> None:
        """The loss by itself, with its gradient."""
        if self.loss:
            self.h_MBD.grad = None
            self.loss(self.h_MBD, batch).backward()

    def seconds(self, work: Callable[[Batch], None], batch: Batch) -> float:
        """How long `work` takes on a batch."""
        self._wait()
        start = time.perf_counter()
        work(batch)
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(args: argparse.Namespace) -> dict[str, Measured]:
    """Every variant on the same batches."""
    rows = max(args.batch * (args.steps + WARM + 1), 100_000)
    with tempfile.TemporaryDirectory(prefix="mdr-bench-") as folder, group_of_one():
        settings = (f"users={args.users}", "domains=5", "features=20", f"rows={rows}")
        synthesize(f"{folder}/data", configure("large", settings))
        steppers = {
            name: Stepper(f"{folder}/data", f"{folder}/{name}", variant=variant, args=args)
            for name, variant in VARIANTS.items()
        }
        taken = {name: Measured([], []) for name in VARIANTS}
        for number, read in enumerate(steppers[NONE].batches()):
            if number == args.steps + WARM:
                break
            batch, turn = read.to(steppers[NONE].device), number % len(VARIANTS)
            for name in [*VARIANTS][turn:] + [*VARIANTS][:turn]:
                taken[name].step.append(steppers[name].seconds(steppers[name].step, batch))
                taken[name].alone.append(steppers[name].seconds(steppers[name].alone, batch))
    return {name: Measured(times.step[WARM:], times.alone[WARM:]) for name, times in taken.items()}


def table(taken: dict[str, Measured], batch: int) -> list[str]:
    """Markdown."""
    base = taken[NONE].step
    lines = ["| rows in the covariance | step, ms | rows/s | added to the step | loss alone, ms | of the step |"]
    lines.append("|---|---|---|---|---|---|")
    for name, times in taken.items():
        step, alone = statistics.median(times.step), statistics.median(times.alone)
        added = statistics.median(own / none - 1 for own, none in zip(times.step, base, strict=True))
        cells = [name, f"{1e3 * step:.1f}", f"{batch / step:,.0f}"]
        if name == NONE:
            cells += ["-", "-", "-"]
        else:
            share = alone / statistics.median(base)
            cells += [f"{100 * added:+.1f} %", f"{1e3 * alone:.2f}", f"{100 * share:.1f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    text = "\n".join(table(measure(args), args.batch))
    print(text)
    if args.out:
        where = f"CPU, {torch.get_num_threads()} threads" if args.device == "cpu" else torch.cuda.get_device_name()
        head = f"`tools/bench_step.py --batch {args.batch} --steps {args.steps} --device {args.device}`; {where}\n\n"
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(f"{head}Experts of {METHOD['experts']}, medians over batches.\n\n{text}\n")


if __name__ == "__main__":
    main()
