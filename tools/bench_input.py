"""How fast the input is, against reading the same Parquet with nothing done to it.

    python tools/bench_input.py                              4M rows, 20 id features, 5 domains, made aside
    python tools/bench_input.py --dataset D --workers 2      a data set that is there; also two workers side by side
    python tools/bench_input.py --out tools/results/input.md

Every measurement runs in a fresh process on one thread and is repeated; the table holds medians. Files are in the page
cache: what is measured is decoding and collating, not the disk.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from bench_file import commit

from mdr_dist.config import DataConfig
from mdr_dist.data.layout import ROW_GROUP, NewDataset, ShardWriter, arrow_schema
from mdr_dist.data.source import Dataset, Source
from mdr_dist.schema import Feature, Schema
from mdr_dist.stage import Slice

Timing = tuple[float, float, float, float]  # rows, seconds, CPU seconds of all threads, peak MiB


@dataclass(frozen=True)
class Task:
    """One measurement: what is read, as which of how many workers."""

    kind: str
    path: str
    batch: int
    rank: int = 0
    world: int = 1


def make(path: str, *, rows: int, features: int, domains: int) -> None:
    """A data set of Zipf ids in spaces of 100 to 10 million; domains shrink by half from one to the next."""
    names = tuple(f"domain_{k}" for k in range(domains))
    spaces = [10 ** (2 + i % 6) for i in range(features - 2)]
    schema = Schema(
        name="bench",
        domains=names,
        features=(
            Feature(name="user", kind="id", rows=max(rows // 4, 2)),
            Feature(name="item", kind="id", rows=200_000),
            Feature(name="domain", kind="id", rows=domains),
            *(Feature(name=f"feature_{i}", kind="id", rows=space) for i, space in enumerate(spaces)),
        ),
    )
    shares = 0.5 ** np.arange(domains)
    sizes = (rows * shares / shares.sum()).astype(int)
    with NewDataset(path) as new:
        shards = []
        for k, name in enumerate(names):
            writer = ShardWriter(new.root, arrow_schema(schema), domain=name, split="train")
            for start in range(0, sizes[k], ROW_GROUP):
                writer.write(_rows(schema, min(ROW_GROUP, int(sizes[k]) - start), np.random.default_rng((k, start))))
            shards += writer.close()
        counts = {"train": {name: int(size) for name, size in zip(names, sizes, strict=True)}}
        new.commit(schema.model_copy(update={"rows": counts}), shards, {})


def _rows(schema: Schema, rows: int, rng: np.random.Generator) -> pa.Table:
    ids = {f.name: rng.zipf(1.1, rows) % f.rows for f in schema.of_kind("id") if f.name not in ("domain", "user")}
    users = rng.integers(0, schema["user"].rows, rows)
    label = (rng.random(rows) < 0.3).astype(np.float32)
    return pa.table({"user": users, **ids, "label": label, "user_key": users})


def measure(task: Task) -> Timing:
    """Run one measurement in this process."""
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    dataset = Dataset.open(task.path)
    cache = 1 if task.kind == "shuffled" else 1 << 20
    data = DataConfig(path=task.path, batch=task.batch, cache_mb=cache)
    source = Source(dataset, data, seed=0, rank=task.rank, world=task.world)
    if task.kind == "shuffled, from the cache":
        _drain(source.batches(Slice(), stage="bench", epoch=0))
    if task.kind == "shuffled with a negative":
        source.batches(Slice(negatives=1), stage="bench", epoch=0)  # builds the file of positives
    runs: dict[str, Callable[[], int]] = {
        "raw pyarrow": lambda: _raw(source),
        "sweep": lambda: _drain(source.sweep(Slice())),
        "shuffled with a negative": lambda: _drain(source.batches(Slice(negatives=1), stage="bench", epoch=1)),
    }
    started, spent = time.perf_counter(), time.process_time()
    rows = runs.get(task.kind, lambda: _drain(source.batches(Slice(), stage="bench", epoch=1)))()
    seconds, spent = time.perf_counter() - started, time.process_time() - spent
    return rows, seconds, spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _drain(batches: Iterable[Any]) -> int:
    return sum(int(batch.weight.sum()) for batch in batches)


def _raw(source: Source) -> int:
    names = list(source.reader.layout.types)
    return sum(source.reader.table(group, names).num_rows for group in source.dataset.groups)


def repeated(tasks: list[Task], *, times: int) -> Timing:
    """Medians over the repetitions of tasks that run side by side: all their rows and CPU, the slowest's seconds."""
    timings: list[Timing] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(tasks), mp_context=context, max_tasks_per_child=1) as pool:
        for _ in range(times):
            parts = list(pool.map(measure, tasks))
            rows, seconds, spent, memory = zip(*parts, strict=True)
            timings.append((sum(rows), max(seconds), sum(spent), max(memory)))
    rows, seconds, spent, memory = (statistics.median(column) for column in zip(*timings, strict=True))
    return rows, seconds, spent, memory


def table(path: str, *, batch: int, workers: int, times: int) -> str:
    """The measurements as a Markdown table."""
    kinds = ["raw pyarrow", "sweep", "shuffled", "shuffled, from the cache", "shuffled with a negative"]
    found = {f"{kind}, 1 worker": repeated([Task(kind, path, batch)], times=times) for kind in kinds}
    if workers > 1:
        tasks = [Task("shuffled", path, batch, rank, workers) for rank in range(workers)]
        found[f"shuffled, {workers} workers"] = repeated(tasks, times=times)
    limit = found["raw pyarrow, 1 worker"][0] / found["raw pyarrow, 1 worker"][1]
    lines = [
        "| what | rows/s | of raw | rows per CPU second | peak RSS of a worker, MiB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, (rows, seconds, spent, memory) in found.items():
        speed = f"{rows / seconds:,.0f} | {rows / seconds / limit:.2f} | {rows / spent:,.0f}"
        lines.append(f"| {name} | {speed} | {memory:,.0f} |")
    return "\n".join(lines)


def header(dataset: Dataset, batch: int, times: int) -> str:
    """What was measured, where and when."""
    ids, rows = len(dataset.schema.of_kind("id")), sum(shard.rows for shard in dataset.shards)
    size = sum(shard.bytes for shard in dataset.shards) / 2**20
    return (
        f"# Input\n\n    {shlex.join(['python', *sys.argv])}\n\n"
        f"{date.today()}, commit {commit()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"torch {torch.__version__}, pyarrow {pa.__version__}, seed 0.\n"
        f"{rows:,} rows, {ids} id features, {len(dataset.schema.domains)} domains, {size:,.0f} MiB of Parquet; "
        f"global batch {batch}; medians of {times} runs.\n"
        "`shuffled` decodes every row group anew, as with data larger than the cache.\n"
        "Rows per CPU second tell what one core gives where other programs share the machine.\n"
    )


def main() -> None:
    """Measure, print, and write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="", help="a prepared data set; without it one is made and removed")
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--features", type=int, default=20, help="id features of the data set that is made")
    parser.add_argument("--domains", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--out", default="", help="a Markdown file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-input-") as folder:
        os.environ["TMPDIR"] = folder  # the positives of the negatives go when the bench ends
        path = options.dataset or os.path.join(folder, "data")
        if not options.dataset:
            make(path, rows=options.rows, features=options.features, domains=options.domains)
        text = header(Dataset.open(path), options.batch, options.times)
        text += "\n" + table(path, batch=options.batch, workers=options.workers, times=options.times) + "\n"
    print(text)
    if options.out:
        os.makedirs(os.path.dirname(options.out) or ".", exist_ok=True)
        with open(options.out, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
