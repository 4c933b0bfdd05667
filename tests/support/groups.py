"""Process groups on one machine.

Their processes are forked from one that has imported what they need, and has never computed: importing takes seconds.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mdr_dist.launch.process import end_group

PRELOADED = ["mdr_dist.launch.process", "mdr_dist.catalog", "pytest", "sklearn.metrics", "torchmetrics"]


def in_group(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """`function(*args)` in `world` new gloo processes of one thread each; what each returned, by rank."""
    forkserver.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="mdr-group-") as folder:
        given = (world, folder, dict(os.environ), function, args)
        mp.start_processes(_enter, args=given, nprocs=world, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _enter(
    rank: int, world: int, folder: str, environment: dict[str, str], function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    warnings.simplefilter("ignore")
    os.environ |= environment | {"GLOO_SOCKET_IFNAME": "lo"}  # the server's is of when it was started
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    try:
        torch.save(function(*args), Path(folder) / f"{rank}.pt")
    finally:
        end_group()
