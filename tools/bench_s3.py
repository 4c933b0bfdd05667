"""How fast workers stream a data set from S3, against from disk: the same files, the same run, taking turns.

    python tools/bench_s3.py                                 3 GB, 2 workers, a SeaweedFS that it starts on loopback
    python tools/bench_s3.py --gb 1 --out tools/results/s3.md

A worker is a fresh process of one thread that shuffles and collates as training does, with no cache of decoded rows.
The server runs on the same cores, so its CPU time is measured too: where all cores are busy, what it takes is what the
workers lack.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil
import pyarrow as pa
from bench_file import arguments, show
from bench_input import Task, make, measure
from seaweedfs import make_bucket, serving

from mdr_dist import storage
from mdr_dist.data.source import Dataset

BYTES_A_ROW = 52  # of bench_input's data set with 20 id features
BUCKET = "bench"


@dataclass(frozen=True)
class Timing:
    """Rows a second over all workers; CPU seconds of workers and server, and seconds of all cores, in that time."""

    rows_per_second: float
    workers: float
    server: float
    cores: float


def timed(path: str, *, batch: int, workers: int, server: psutil.Process) -> Timing:
    """One epoch by workers side by side."""
    tasks = [Task("shuffled", path, batch, rank, workers) for rank in range(workers)]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_ready, range(workers)))
        before = _cpu(server)
        rows, seconds, spent, _ = zip(*pool.map(measure, tasks), strict=True)
        return Timing(sum(rows) / max(seconds), sum(spent), _cpu(server) - before, max(seconds) * (os.cpu_count() or 1))


def _ready(number: int) -> int:
    time.sleep(1)  # so that each process takes one
    return number


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def compared(paths: dict[str, str], *, times: int, batch: int, workers: int, server: psutil.Process) -> str:
    """The table, and the ratio below it."""
    found: dict[str, list[Timing]] = {name: [] for name in paths}
    for turn in range(times):
        for name in list(paths)[:: -1 if turn % 2 else 1]:
            found[name].append(timed(paths[name], batch=batch, workers=workers, server=server))
    lines = ["| from | rows/s | CPU s of workers | of the server | cores busy with both |", "|---|---:|---:|---:|---:|"]
    rates: dict[str, float] = {}
    for name, timings in found.items():
        rates[name] = statistics.median(each.rows_per_second for each in timings)
        own, server_s, busy = (
            statistics.median(values)
            for values in zip(*((t.workers, t.server, (t.workers + t.server) / t.cores) for t in timings), strict=True)
        )
        lines.append(f"| {name} | {rates[name]:,.0f} | {own:.1f} | {server_s:.1f} | {busy:.0%} |")
    disk, own, server_s = (
        statistics.median(values)
        for values in (
            [t.workers for t in found["disk"]],
            [t.workers for t in found["S3"]],
            [t.server for t in found["S3"]],
        )
    )
    lines += [
        "",
        f"S3 / disk: {rates['S3'] / rates['disk']:.2f}. By CPU time alone: {disk / (own + server_s):.2f} where workers "
        f"and server share busy cores, as here; {disk / own:.2f} where the server has its own.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Make the data set, copy it to the store, stream it from both."""
    options = arguments(__doc__, {"gb": 3, "workers": 2, "times": 3, "batch": 4096, "mb": 0})
    size = options.mb * 1e6 if options.mb else options.gb * 1e9
    with tempfile.TemporaryDirectory(prefix="bench-s3-") as folder:
        with serving(Path(folder) / "store", volumes=16 + int(size / 2**28)) as store:
            os.environ.update(store.environment)
            disk, remote = f"{folder}/data", f"s3://{BUCKET}/data"
            make(disk, rows=int(size / BYTES_A_ROW), features=20, domains=5)
            make_bucket(BUCKET)
            fs, _ = storage.filesystem(remote)
            fs.put(f"{disk}/", f"{BUCKET}/data/", recursive=True)
            shards = Dataset.open(remote).shards
            table = compared(
                {"disk": disk, "S3": remote},
                times=options.times,
                batch=options.batch,
                workers=options.workers,
                server=psutil.Process(store.pid),
            )
        rows, total = sum(shard.rows for shard in shards), sum(shard.bytes for shard in shards)
    head = (
        f"# S3 beside disk\n\n    {shlex.join(['python', *sys.argv])}\n\n"
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, pyarrow {pa.__version__}. {rows:,} rows in "
        f"{len(shards)} shards, {total / 1e9:.2f} GB; {options.workers} workers, medians of {options.times} runs by "
        "turns; everything in the page cache.\n\n"
    )
    show(head + table + "\n", options.out)


if __name__ == "__main__":
    main()
