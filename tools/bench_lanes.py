"""What it gains to train lanes side by side: the first stage of CAT-ART, a lane a domain, on two workers and on one.

    tools/bench_lanes.py [--users 20000 --items 5000 --rows 400000 --epochs 40] [--out tools/results/lanes.md]

SMF's lanes are the first stage of CAT-ART, and nothing else. Each round runs `mdr train` on Ray twice, with one worker
(lanes in sequence) and with two (side by side), the same job otherwise; a worker computes with one thread. Of several
rounds the median counts. `lanes` is the time from the first lane's start to the last one's end, `command` that of the
whole command, with Ray's start and end; `CPU` what the lanes' own processes used.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
import yaml
from bench_file import arguments, commit, show

from mdr_dist.checkpoint.lanes import RESULT

WORKERS = {1: "in sequence", 2: "side by side"}
Times = dict[str, float]


def job_of(args: argparse.Namespace, dataset: str) -> dict[str, object]:
    """The job, but for its workers. Nothing is evaluated on the way, and little at the end."""
    return {
        "name": "lanes",
        "data": {"path": dataset, "batch": 2048},
        "method": {"name": "smf", "patience": 0},
        "tables": {"optimizer": "adam", "lr": 1.0e-3},
        "train": {"epochs": args.epochs, "eval_epochs": 0, "threads": 1, "save_minutes": 0},
        "eval": {"users": 1000},
    }


def timed(job: Path, runs: Path, *, workers: int) -> Times:
    """Run the command; seconds of it, of its lanes, of the shortest lane's training, and of the lanes' processors."""
    command = [sys.executable, "-m", "mdr_dist", "train", str(job), "--runs", str(runs), "--quiet"]
    started = time.monotonic()
    process = subprocess.Popen([*command, "--workers", str(workers)], stdout=subprocess.DEVNULL)
    used: dict[int, float] = {}
    while process.poll() is None:
        used |= lane_seconds(process.pid)
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"`mdr train --workers {workers}` failed")
    lanes = list((runs / "lanes" / "lanes").iterdir())
    begun = [json.loads((lane / "events.jsonl").read_text().partition("\n")[0])["time"] for lane in lanes]
    trained = [json.loads((lane / RESULT).read_text())["train"]["seconds"] for lane in lanes]
    return {
        "command": time.monotonic() - started,
        "lanes": max((lane / RESULT).stat().st_mtime for lane in lanes) - min(begun),
        "shortest": min(trained),
        "CPU": sum(used.values()),
        "load": os.getloadavg()[0],
    }


def lane_seconds(pid: int) -> dict[int, float]:
    """Seconds of processor used so far by the processes below `pid` in which a lane runs."""
    used: dict[int, float] = {}
    try:
        for process in psutil.Process(pid).children(recursive=True):
            if "ray::alone" in " ".join(process.cmdline()):
                spent = process.cpu_times()
                used[process.pid] = spent.user + spent.system
    except psutil.Error:  # one ended meanwhile
        pass
    return used


def measured(args: argparse.Namespace) -> dict[int, list[Times]]:
    """Workers → the times of each round."""
    found: dict[int, list[Times]] = {workers: [] for workers in WORKERS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = [f"--{key}={value}" for key, value in (("users", args.users), ("items", args.items))]
        size += [f"--rows={args.rows}", "--domains=2", "--set", "skew=0", "--set", "shared_items=false"]
        command = [sys.executable, "-m", "mdr_dist", "synth", str(root / "set"), *size]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (root / "job.yaml").write_text(yaml.safe_dump(job_of(args, str(root / "set"))))
        for turn in range(args.rounds):
            for workers in WORKERS:
                times = timed(root / "job.yaml", root / f"{turn}-{workers}", workers=workers)
                print(WORKERS[workers], {name: round(value, 1) for name, value in times.items()}, flush=True)
                found[workers].append(times)
    return found


def report(args: argparse.Namespace, found: dict[int, list[Times]], *, load: float) -> str:
    """The table, under the command that makes it."""
    size = " ".join(f"--{key} {getattr(args, key)}" for key in ("users", "items", "rows", "epochs", "rounds"))
    names = ("lanes", "command", "CPU")
    middle = {
        w: {name: statistics.median(each[name] for each in rounds) for name in names} for w, rounds in found.items()
    }
    every = [each for rounds in found.values() for each in rounds]
    loads = ", ".join(f"{each['load']:.1f}" for each in every)
    if load > 1:
        loads += ". Others kept it busy: this says little of lanes alone; measure again on a quiet machine"
    lines = [
        "# Lanes side by side",
        "",
        f"    tools/bench_lanes.py {size} --out tools/results/lanes.md",
        "",
        f"{datetime.date.today()}, commit {commit()}, torch {torch.__version__}, {platform.machine()}, "
        f"{os.cpu_count()} cores, one thread a worker. The first stage of CAT-ART on two domains, a lane each: "
        f"seconds, median of {args.rounds} rounds in turn (least to most). The shortest lane trained for "
        f"{min(each['shortest'] for each in every):.0f} s.",
        "",
        f"Load of the machine (1 minute): {load:.2f} before; at the end of each run, first those in sequence: {loads}.",
        "",
        "| lanes | first start to last end | whole command | CPU of the lanes |",
        "|---|---|---|---|",
    ]
    for workers, rounds in found.items():
        cells = (
            f"{middle[workers][n]:.1f} ({min(r[n] for r in rounds):.1f} to {max(r[n] for r in rounds):.1f})"
            for n in names
        )
        lines.append(f"| {WORKERS[workers]}, `--workers {workers}` | {' | '.join(cells)} |")
    ratio = (f"{middle[2][name] / middle[1][name]:.2f}" for name in names)
    lines.append(f"| side by side of in sequence | {' | '.join(ratio)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    args = arguments(__doc__, {"users": 20_000, "items": 5000, "rows": 400_000, "epochs": 40, "rounds": 3})
    load = os.getloadavg()[0]
    show(report(args, measured(args), load=load), args.out)


if __name__ == "__main__":
    main()
