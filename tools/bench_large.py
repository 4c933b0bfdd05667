"""Memory and speed of a training at the size of the preset `large`: a million users, five domains, twenty features.

    tools/bench_large.py [--job jobs/large/crocodile.yaml] [--data data/large] [--workers 0] [--out FILE.md]

Makes the data set if it is missing, trains the job on it as `mdr train` does, evaluation included, and adds up what all
of its processes hold (proportional set size, so that shared pages count once), twice a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from memory import watched


def mdr(*arguments: str) -> list[str]:
    """The command."""
    return [sys.executable, "-m", "mdr_dist", *arguments]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", default="jobs/large/crocodile.yaml")
    parser.add_argument("--data", default="data/large")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not Path(args.data, "schema.json").exists():
        subprocess.run(mdr("synth", args.data, "--preset", "large"), check=True)
    with tempfile.TemporaryDirectory(prefix="mdr-large-") as runs:
        command = mdr("train", args.job, "--set", f"data.path={args.data}", "--runs", runs)
        started = time.monotonic()
        peak = watched([*command, *(["--workers", str(args.workers)] if args.workers else [])], f"{os.getpid()}")
        seconds = time.monotonic() - started
        [result] = [json.loads(path.read_text()) for path in Path(runs).glob("*/metrics.json")]
        [plan] = [json.loads(path.read_text()) for path in Path(runs).glob("*/plan.json")]
    train = result["train"]
    tables = sum(table["weight_bytes"] + table["optimizer_bytes"] for table in plan["tables"])
    lines = [
        "| workers | rows trained | rows/s in steps | whole command, s | tables, GB | all processes at most, GB |",
        "|---|---|---|---|---|---|",
        f"| {args.workers or 'in process'} | {train['rows']:,} | {train['rows_per_second']:,.0f} | {seconds:.0f} | "
        f"{tables / 2**30:.2f} | {peak / 2**30:.2f} |",
    ]
    print("\n".join(lines))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        head = (
            f"`tools/bench_large.py --job {args.job} --workers {args.workers}`; {date.today()}, {platform.machine()}, "
        )
        head += (
            f"{os.cpu_count()} cores, torch {torch.__version__}; macro test AUC {result['test']['macro']['auc']:.4f}."
        )
        args.out.write_text(head + "\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
