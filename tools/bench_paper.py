"""Time and memory of CAT-ART at its paper's size: 1,166,552 users in five domains, 309 million interactions.

    tools/bench_paper.py [--scale 0.1] [--whole video-long] [--folder data] [--out tools/results/paper.md]
    tools/bench_paper.py --made [--folder data] [--out tools/results/paper.md]

Makes the data set of the preset `paper` with `scale` of the interactions, trains jobs/paper/cat_art.yaml on it as `mdr
train` does, evaluation included, and watches what all processes hold, twice a second; then the same for the baseline
SMF on the domain `whole` alone, with all of its interactions. From the first it works out what the whole would take.
With `--made` instead, makes the data set with all interactions and what training derives from it before it starts: who
took what, for negatives, and where users are active. Results are added at the end of the file `out`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from memory import watched

from mdr_dist.data.negatives import Negatives
from mdr_dist.data.reader import Dataset, Reader
from mdr_dist.data.synthetic import ImplicitConfig
from mdr_dist.data.users import Users

JOB = "jobs/paper/cat_art.yaml"
PAPER = ImplicitConfig.paper()


@dataclass(frozen=True)
class Part:
    """What was done: `rows` in `seconds`, of which `steps` in training steps and `ranking` in evaluation."""

    name: str
    rows: int
    seconds: float
    steps: float = 0.0
    ranking: float = 0.0
    grows: bool = True  # with the interactions; else it is the users that count


@dataclass(frozen=True)
class Measured:
    """A data set made and trained on: its parts, the seconds and the peak bytes of both commands, and the result."""

    parts: list[Part]
    seconds: float
    peaks: tuple[int, int]
    plan: dict[str, Any]
    test: dict[str, Any]


def timed(arguments: list[str]) -> tuple[float, int]:
    """Run an mdr command; its seconds and the most bytes that it held."""
    started = time.monotonic()
    peak = watched([sys.executable, "-m", "mdr_dist", *arguments], str(os.getpid()))
    return time.monotonic() - started, peak


def lanes(run: Path) -> list[Part]:
    """The lanes of a run in the order in which they ran."""
    found: list[tuple[float, Part]] = []
    for result in run.glob("lanes/*/result.json"):
        events = [json.loads(line) for line in (result.parent / "events.jsonl").read_text().splitlines()]
        begun = events[0]["time"]
        trained = max(event["time"] for event in events if event["kind"] == "checkpoint")
        done, value = result.stat().st_mtime, json.loads(result.read_text())
        ranking = done - trained if value["test"] else 0.0
        train = value["train"]
        part = Part(value["lane"], train["rows"], done - begun, train["step_seconds"], ranking, value["lane"] != "cat")
        found.append((begun, part))
    return [part for _, part in sorted(found, key=lambda item: item[0])]


def measure(data: Path, settings: list[str], job: list[str]) -> Measured:
    """Make a data set and train on it; both are removed."""
    with tempfile.TemporaryDirectory(prefix="paper-", dir=data) as folder:
        os.environ["TMPDIR"] = folder  # where derived arrays lie
        made, synth_peak = timed(["synth", f"{folder}/data", "--preset", "paper", *settings])
        schema = json.loads(Path(folder, "data/schema.json").read_text())
        rows = sum(sum(split.values()) for split in schema["rows"].values())
        fixed = ["--quiet", "--runs", folder, "--set", f"data.path={folder}/data", "--set", "train.threads=1"]
        trained, peak = timed(["train", JOB, *fixed, *job])
        [run] = Path(folder).glob("*/metrics.json")
        plan = json.loads((run.parent / "plan.json").read_text())
        parts = [Part("mdr synth", rows, made), *lanes(run.parent)]
        test = json.loads(run.read_text())["test"]
    return Measured(parts, made + trained, (synth_peak, peak), plan, test)


def table(measured: Measured) -> list[str]:
    """Markdown: a row a part."""
    lines = ["| part | rows | seconds | of these in steps | in ranking | rows/s |", "|---|---:|---:|---:|---:|---:|"]
    for part in measured.parts:
        cells = [f"{seconds:.0f}" if seconds else "" for seconds in (part.steps, part.ranking)]
        rate = part.rows / (part.steps or part.seconds)
        lines.append(f"| {part.name} | {part.rows:,} | {part.seconds:.0f} | {' | '.join(cells)} | {rate:,.0f} |")
    return lines


def summary(measured: Measured) -> str:
    """The line below a table."""
    weights = sum(table["weight_bytes"] + table["optimizer_bytes"] for table in measured.plan["tables"])
    made, trained = (peak / 2**30 for peak in measured.peaks)
    ndcg = ", ".join(f"{name} {values['ndcg@10']:.4f}" for name, values in measured.test.items())
    random = measured.test["macro"]["random/ndcg@10"]
    return (
        f"Both commands: {measured.seconds / 60:.1f} minutes. All processes held at most {made:.2f} GB in `mdr synth` "
        f"and {trained:.2f} GB in `mdr train`; tables with optimizer state are {weights / 2**30:.2f} GB. NDCG@10 after "
        f"one epoch a stage: {ndcg}; a random order: {random:.4f}."
    )


def whole(measured: Measured, scale: float) -> str:
    """What all interactions would take, from what a `scale` of them took."""
    grow = sum(part.steps or part.seconds for part in measured.parts if part.grows)
    hours = (measured.seconds + grow * (1 / scale - 1)) / 3600
    # a domain's sorted pairs and what is made of them are mapped from files: 8 bytes each an interaction
    largest = max(PAPER.interactions)
    mapped = 2 * 8 * largest * (1 - scale)
    return (
        f"With all {sum(PAPER.interactions):,} training interactions: {hours:.1f} hours on this machine, as steps and "
        f"`mdr synth` grow with the interactions and the rest, such as the users' stage and ranking, does not; "
        f"{(measured.peaks[1] + mapped) / 2**30:.1f} GB, as only the arrays that say who took what grow, 16 bytes an "
        f"interaction of the largest domain while they are made, mapped from files, so that they can be paged out."
    )


def made(folder: Path) -> list[str]:
    """Make the whole data set, and open it as training does; a row each."""
    with tempfile.TemporaryDirectory(prefix="paper-", dir=folder) as inside:
        path = f"{inside}/data"
        os.environ["TMPDIR"] = inside  # where derived arrays lie
        seconds, peak = timed(["synth", path, "--preset", "paper"])
        rows = sum(sum(PAPER.rows(k).values()) for k in range(len(PAPER.domains)))
        done = [("`mdr synth`", rows, seconds, peak)]
        for name, arguments in {"users of all domains": [], **{f"negatives, {d}": [d] for d in PAPER.domains}}.items():
            started = time.monotonic()
            peak = watched([sys.executable, __file__, "--open", path, *arguments], str(os.getpid()))
            rows = sum(PAPER.interactions[PAPER.domains.index(d)] for d in arguments or PAPER.domains)
            done.append((name, rows, time.monotonic() - started, peak))
    lines = ["| what is made | rows | seconds | rows/s | at most, GB |", "|---|---:|---:|---:|---:|"]
    return lines + [f"| {n} | {r:,} | {s:.0f} | {r / s:,.0f} | {p / 2**30:.2f} |" for n, r, s, p in done]


def opened(path: str, domain: str = "") -> None:
    """Make the arrays that training a domain, or the stage over users, derives from a data set."""
    dataset = Dataset.open(path)
    if domain:
        Negatives.of_training(Reader(dataset), domain=dataset.schema.domain_index(domain))
    else:
        Users.open(Reader(dataset), split="train")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--whole", default="video-long")
    parser.add_argument("--folder", type=Path, default=Path("data"))
    parser.add_argument("--note", default="")
    parser.add_argument("--made", action="store_true")
    parser.add_argument("--open", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.open:
        opened(*args.open)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    lines = whole_set(args) if args.made else trainings(args)
    print("\n".join(lines), flush=True)
    if args.out:
        with args.out.open("a") as file:
            file.write("\n".join(lines))


def headed(command: str, note: str) -> list[str]:
    """Where and how it was measured."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}"
    return [f"`tools/bench_paper.py {command}`; {date.today()}, {machine}. {note}".strip(), ""]


def whole_set(args: argparse.Namespace) -> list[str]:
    """The lines of `--made`."""
    return ["## The whole data set", "", *headed("--made", args.note), *made(args.folder), ""]


def trainings(args: argparse.Namespace) -> list[str]:
    """The lines of both trainings."""
    at = PAPER.domains.index(args.whole)
    alone = {"domains": args.whole, "items": PAPER.items[at], "interactions": PAPER.interactions[at]}
    lines = headed(f"--scale {args.scale:g} --whole {args.whole}", args.note)
    measured = measure(args.folder, ["--scale", f"{args.scale:g}"], [])
    lines += [f"## CAT-ART, {args.scale:g} of the interactions", "", *table(measured), "", summary(measured), ""]
    lines += [whole(measured, args.scale), ""]
    settings = [part for key, value in alone.items() for part in ("--set", f"{key}=[{value}]")]
    job = ["--set", "method.name=smf", "--set", "name=paper-smf"]
    measured = measure(args.folder, settings, job)
    more = [f"## SMF, {args.whole} with all of its interactions", "", *table(measured), "", summary(measured), ""]
    return lines + more


if __name__ == "__main__":
    main()
