"""A table out of a checkpoint, without a process group and whatever placement wrote it."""

from __future__ import annotations

import warnings

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

from mdr_dist.stage import TableSpec


def read_table(folder: str, spec: TableSpec) -> Tensor:
    """[rows, dim] float32 on the CPU, from a checkpoint's folder. Takes the memory of this one table."""
    rows = torch.empty(spec.rows, spec.dim)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load({f"{spec.name}/weight": rows}, storage_reader=FsspecReader(folder), no_dist=True)
    return rows
