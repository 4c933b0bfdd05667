"""Breaks one process of ours at a moment of its work: Python imports this from PYTHONPATH when it starts.

MDR_CHAOS says how, as JSON: `moment` and `fault` by the names below, `after` so many calls of the moment's function,
`token` a file that is made when it happens, so that it happens once; `driver` a file with the driver's process id,
`shard` a file that the fault `truncate` cuts in half, and `storm` a file that tells the object store's front until when
it is to fail, `seconds` from then on.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

MOMENTS = {  # what is about to be called then
    "step": ("mdr_dist.train.trainer", "train_step"),
    "save": ("mdr_dist.checkpoint.checkpoint", "save_tensors"),  # tables are written, what goes with them is not
    "rewrite": ("mdr_dist.tables.tables", "map_shards"),
    "evaluation": ("mdr_dist.train.trainer", "evaluate"),
    "export": ("mdr_dist.checkpoint.export", "save_tensors"),
    "prepare": ("mdr_dist.data.layout", "ShardWriter.write"),
}
SMALL = 1000  # bytes that a file may have once the disk is full


def kill() -> None:
    """End this process as the kernel does when memory is out."""
    os.kill(os.getpid(), signal.SIGKILL)


def driver() -> int:
    """The id of the process that was asked for the work."""
    return int(Path(PLAN["driver"]).read_text())


def kill_driver(signum: int = signal.SIGKILL) -> None:
    """End the process that was asked for the work, or ask it to end."""
    os.kill(driver(), signum)


def kill_raylet() -> None:
    """End the node, which the driver has started: this process is one of its workers, or the driver."""
    import psutil  # only here: every process of Ray imports this module

    for process in psutil.Process(driver()).children(recursive=True):
        if process.name() == "raylet":
            process.kill()
    time.sleep(10)  # idle workers follow; one that is at work may come to its end without the node


def fill_disk() -> None:
    """Let no file of this process grow, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def truncate() -> None:
    """Cut a shard in half."""
    shard = Path(PLAN["shard"])
    os.truncate(shard, shard.stat().st_size // 2)


def storm() -> None:
    """Let the object store answer 500 for a while."""
    path, half = Path(PLAN["storm"]), Path(PLAN["storm"] + ".half")
    half.write_text(str(time.time() + PLAN["seconds"]))
    half.rename(path)


FAULTS: dict[str, Callable[[], None]] = {
    "kill": kill,
    "kill driver": kill_driver,
    "kill raylet": kill_raylet,
    "stop driver": functools.partial(kill_driver, signal.SIGTERM),
    "full disk": fill_disk,
    "truncated shard": truncate,
    "S3 500s": storm,
}


def broken(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, before one of whose calls the fault happens, in whichever process comes to it first."""
    calls = 0

    def strike() -> None:
        nonlocal calls
        calls += 1
        if calls > PLAN["after"] and first():
            FAULTS[PLAN["fault"]]()

    return functools.wraps(function)(lambda *args, **kwargs: (strike(), function(*args, **kwargs))[1])


def first() -> bool:
    """Whether nobody has been here before."""
    try:
        os.close(os.open(PLAN["token"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


class Finder(importlib.abc.MetaPathFinder):
    """Finds the moment's module as anybody would, and changes it once it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec, with a loader that also changes it."""
        module, name = MOMENTS[PLAN["moment"]]
        if fullname != module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec and spec.loader:
            spec.loader.exec_module = functools.partial(load, spec.loader.exec_module, name)  # type: ignore[method-assign]
        return spec


def load(execute: Callable[[ModuleType], None], name: str, module: ModuleType) -> None:
    """Load a module and break what it calls by that name."""
    execute(module)
    owner: Any = module
    *above, last = name.split(".")
    for part in above:
        owner = getattr(owner, part)
    setattr(owner, last, broken(getattr(owner, last)))


PLAN: dict[str, Any] = json.loads(os.environ.get("MDR_CHAOS", "null")) or {}
if PLAN and not Path(PLAN["token"]).exists():
    sys.meta_path.insert(0, Finder())
