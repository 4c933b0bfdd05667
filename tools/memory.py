"""What a command's processes hold in memory, for the benchmarks."""

from __future__ import annotations

import os
import subprocess
import time

import psutil


def held(process: psutil.Process) -> int:
    """Bytes that a process and all below it hold (proportional set size, so that shared pages count once)."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def watched(command: list[str], mark: str) -> int:
    """Run a command; the most that its processes held at once. Ray's are found by their mark, wherever they hang."""
    started = subprocess.Popen(command, env={**os.environ, "MDR_BENCH": mark})
    peak = 0
    while started.poll() is None:
        peak = max(peak, sum(map(held, _roots(started.pid, mark))))
        time.sleep(0.5)
    if started.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {started.returncode}")
    return peak


def _roots(pid: int, mark: str) -> list[psutil.Process]:
    """The command's process, and those of its mark that are not below it."""
    below = {pid}
    found = [psutil.Process(pid)]
    below |= {child.pid for child in found[0].children(recursive=True)}
    for process in psutil.process_iter():
        try:
            if process.pid not in below and process.environ().get("MDR_BENCH") == mark:
                found.append(process)
                below |= {process.pid, *(child.pid for child in process.children(recursive=True))}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
