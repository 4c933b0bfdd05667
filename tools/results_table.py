"""Train jobs over seeds and write their table, or rewrite it from runs that are there.

    tools/results_table.py OUT.md --jobs JOB.yaml ... [--single JOB.yaml] [--seeds 5] [--runs runs] [--parallel 2]

A run that is finished is not trained again. `--single` trains its job once a domain, on that domain's rows alone, and
makes one column of them. Cells are mean ± standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from mdr_dist.data.layout import read_schema

METRICS = ("auc", "gauc")


@dataclass(frozen=True)
class Cell:
    """One training: a job, a seed, and the one domain it sees (empty: all)."""

    job: Path
    seed: int
    domain: str = ""

    @property
    def name(self) -> str:
        """The run's name."""
        base = yaml.safe_load(self.job.read_text())["name"]
        return f"{base}{'-only-' + self.domain if self.domain else ''}-seed{self.seed}"

    def train(self, runs: Path) -> None:
        """Train unless the run is finished."""
        if (runs / self.name / "metrics.json").exists():
            return
        settings = [f"name={self.name}", f"train.seed={self.seed}", "train.threads=1"]
        settings += [f"data.domains=['{self.domain}']"] if self.domain else []
        command = [sys.executable, "-m", "mdr_dist", "train", str(self.job), "--quiet", "--runs", str(runs)]
        subprocess.run(
            [*command, *(part for s in settings for part in ("--set", s))], check=True, stdout=subprocess.DEVNULL
        )
        print(f"trained {self.name}", flush=True)

    def test(self, runs: Path) -> dict[str, dict[str, float]]:
        """The run's test metrics."""
        return json.loads((runs / self.name / "metrics.json").read_text())["test"]


def columns(args: argparse.Namespace, domains: tuple[str, ...]) -> dict[str, list[list[Cell]]]:
    """Column title → for each seed the runs whose domains make it up."""
    made: dict[str, list[list[Cell]]] = {}
    if args.single:
        title = f"single-domain {yaml.safe_load(args.single.read_text())['method']['name']}"
        made[title] = [[Cell(args.single, seed, domain) for domain in domains] for seed in range(args.seeds)]
    for job in args.jobs:
        title = yaml.safe_load(job.read_text())["name"]
        made[title] = [[Cell(job, seed)] for seed in range(args.seeds)]
    return made


def table(made: dict[str, list[list[Cell]]], domains: Iterable[str], runs: Path) -> list[str]:
    """The Markdown lines."""
    lines = []
    for metric in METRICS:
        lines += [f"\n**{metric}**\n", f"| domain | {' | '.join(made)} |", "|---" * (len(made) + 1) + "|"]
        for domain in (*domains, "macro", "pooled"):
            cells = [_cell([_value(cells, domain, metric, runs) for cells in seeds]) for seeds in made.values()]
            lines.append(f"| {domain} | {' | '.join(cells)} |")
    return lines


def _value(cells: list[Cell], domain: str, metric: str, runs: Path) -> float:
    if len(cells) == 1 and not cells[0].domain:
        return cells[0].test(runs)[domain][metric]
    own = {cell.domain: cell.test(runs)[cell.domain][metric] for cell in cells}
    if domain == "macro":
        return float(np.mean(list(own.values())))
    return own.get(domain, float("nan"))


def _cell(values: list[float]) -> str:
    if np.isnan(values).any():
        return "-"
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.4f}"


def main() -> None:
    """Train what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=Path, nargs="+", required=True)
    parser.add_argument("--single", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--parallel", type=int, default=2)
    args = parser.parse_args()
    dataset = yaml.safe_load(args.jobs[0].read_text())["data"]["path"]
    schema = read_schema(dataset)
    made = columns(args, schema.domains)
    todo = [cell for seeds in made.values() for cells in seeds for cell in cells]
    with ThreadPoolExecutor(args.parallel) as pool:
        list(pool.map(lambda cell: cell.train(args.runs), todo))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    head = [
        f"`{shlex.join(['python', *sys.argv])}`\n",
        f"{datetime.date.today()}, commit {commit.strip()}, {args.seeds} seeds, {platform.machine()} with "
        f"{os.cpu_count()} cores, one thread a run; mean ± standard deviation.",
        f"Data set {schema.name}, rows: {json.dumps(schema.rows)}.",
    ]
    args.out.write_text("\n".join(head + table(made, schema.domains, args.runs)) + "\n")
    print(args.out.read_text())


if __name__ == "__main__":
    main()
