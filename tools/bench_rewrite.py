"""Time and memory of SML at size: a million users and 200,000 items, periods of two million rows.

    tools/bench_rewrite.py [--users 1000000] [--rows 20000000] [--periods 10] [--out tools/results/rewrite.md]

Makes the data set with `mdr synth --preset drift`, trains jobs/large/sml.yaml on it as `mdr train` does, and watches
what its processes hold, twice a second. Then, by itself, how fast all rows of both tables are made anew (`map_rows`),
beside the same network over as many rows that lie in the cache, which is as fast as it can be.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from bench_file import arguments, show
from memory import watched

from mdr_dist.config import load_job
from mdr_dist.launch.process import group_of_one
from mdr_dist.methods.sml import SML, TABLES
from mdr_dist.tables import build_tables
from mdr_dist.tables.shard import CHUNK
from mdr_dist.train.run import plan_of

JOB = "jobs/large/sml.yaml"
NUMBERS = {"users": 1_000_000, "items": 200_000, "rows": 20_000_000, "periods": 10, "first": 8, "seed": 0}


def timed(command: list[str]) -> tuple[float, float]:
    """Run an mdr command; its seconds and the most GB that it held."""
    started = time.monotonic()
    peak = watched([sys.executable, "-m", "mdr_dist", *command], str(os.getpid()))
    return time.monotonic() - started, peak / 2**30


def rewriting(data: str, settings: tuple[str, ...]) -> tuple[int, float, float]:
    """Rows of both tables, and rows a second: as the method makes them anew, and of the bare network."""
    job = load_job(JOB, (f"data.path={data}", *settings))
    plan = plan_of(job)
    method = plan.method
    assert isinstance(method, SML)
    with group_of_one() as device:
        tables = build_tables(method.tables(), plan.stages, config=job.tables, device=device, seed=job.train.seed)
        rows = sum(tables.specs[name].rows for name in TABLES)
        fit = next(stage for stage in plan.stages if stage.name.endswith("-fit"))
        started = time.perf_counter()
        for operation in fit.after:
            operation(tables)
        took = time.perf_counter() - started
    return rows, rows / took, rows / bare(method, rows)


@torch.no_grad()
def bare(method: SML, rows: int) -> float:
    """Seconds of a transfer network over so many rows."""
    last, hat = torch.randn(2, CHUNK, method.config.dim)
    started = time.perf_counter()
    for _ in range(0, rows, CHUNK):
        method.transfer[TABLES[0]](last, hat)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    args = arguments(__doc__, NUMBERS)
    sizes = [f"--{name}={getattr(args, name)}" for name in ("users", "items", "rows", "periods", "seed")]
    with tempfile.TemporaryDirectory(prefix="rewrite-", dir=os.environ.get("TMPDIR")) as folder:
        data = f"{folder}/data"
        made, made_gb = timed(["synth", data, "--preset", "drift", *sizes])
        settings = (f"data.path={data}", f"method.first={args.first}", "train.threads=1")
        flags = [part for setting in settings for part in ("--set", setting)]
        trained, trained_gb = timed(["train", JOB, "--quiet", "--runs", folder, *flags])
        result = json.loads(Path(folder, "large-sml/metrics.json").read_text())
        torch.set_num_threads(1)
        rows, rate, limit = rewriting(data, settings[1:])
    learnt, seconds = result["train"]["rows"], sum(result["lanes"]["main"]["stages"].values())
    periods = "; ".join(f"{name}: NDCG@10 {found['macro']['ndcg@10']:.4f}" for name, found in result["before"].items())
    lines = [
        "# SML at size",
        "",
        f"    tools/bench_rewrite.py {' '.join(sizes)} --first={args.first}",
        "",
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}.",
        "",
        "| | rows | seconds | rows/s | at most, GB |",
        "|---|---:|---:|---:|---:|",
        f"| `mdr synth` | {args.rows:,} | {made:.0f} | {args.rows / made:,.0f} | {made_gb:.2f} |",
        f"| `mdr train`, whole | {learnt:,} | {trained:.0f} | {learnt / trained:,.0f} | {trained_gb:.2f} |",
        f"| of it, steps | {learnt:,} | {seconds:.0f} | {learnt / seconds:,.0f} | |",
        f"| table rows made anew | {rows:,} | {rows / rate:.1f} | {rate:,.0f} | |",
        f"| the bare network | {rows:,} | {rows / limit:.1f} | {limit:,.0f} | |",
        "",
        f"Met before it was learnt, 1 positive against 999: {periods}.",
        "",
    ]
    show("\n".join(lines), args.out)


if __name__ == "__main__":
    main()
