"""A table's rows out of a checkpoint, without a process group and whatever placement wrote it."""

from __future__ import annotations

import warnings
from typing import cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load

from mdr_dist.stage import TableSpec
from mdr_dist.tables.saved import SavedTables


def read_table(folder: str, spec: TableSpec, *, row_start: int = 0, row_end: int | None = None) -> Tensor:
    """[n, dim] float32 on the CPU: rows `[row_start, row_end)`, all by default, from a checkpoint's folder.

    Takes the memory of these rows and of one of the shards that hold them.
    """
    rows = torch.empty((spec.rows if row_end is None else row_end) - row_start, spec.dim)
    name = f"{spec.name}/weight"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load({name: rows}, storage_reader=SavedTables(folder), planner=_Rows(name, rows, row_start), no_dist=True)
    return rows


class _Rows(DefaultLoadPlanner):
    """Reads the part of a saved tensor that covers `rows`, which begin at `row_start`."""

    def __init__(self, name: str, rows: Tensor, row_start: int) -> None:
        super().__init__()
        self._name, self._rows, self._row_start = name, rows, row_start

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        saved = cast(TensorStorageMetadata, self.metadata.state_dict_metadata[self._name])
        wanted = ChunkStorageMetadata(torch.Size([self._row_start, 0]), self._rows.shape)
        return LoadPlan(create_read_items_for_chunk_list(self._name, saved, [wanted]))

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:  # noqa: ARG002
        return self._rows
