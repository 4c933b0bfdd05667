"""A checkpoint's metadata is a pickle: nothing it names is called, and it names no file outside."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import save  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

from mdr_dist.checkpoint.checkpoint import quiet
from mdr_dist.tables.saved import SavedTables


class Calls:
    """A pickle that calls a function when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


def folder(tmp_path: Path) -> Path:
    with quiet():
        writer = FsspecWriter(str(tmp_path), single_file_per_rank=True)
        save({"table/weight": torch.ones(3, 2, dtype=torch.float64)}, storage_writer=writer, no_dist=True)
    return tmp_path


def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    metadata = SavedTables(str(folder(tmp_path))).read_metadata()
    (saved,) = metadata.state_dict_metadata.values()
    assert saved.size == torch.Size([3, 2]) and saved.properties.dtype == torch.float64  # type: ignore[union-attr]


@pytest.mark.parametrize("function", [os.mkdir, torch.load, eval, pickle.loads])
def test_code_is_refused(function: Any, tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Calls(function, str(tmp_path / "made"))))
    with pytest.raises(pickle.UnpicklingError, match=r"has no place in a checkpoint's metadata"):
        SavedTables(str(tmp_path)).read_metadata()
    assert not (tmp_path / "made").exists()


def test_another_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(torch.Size([1])))
    with pytest.raises(pickle.UnpicklingError, match=r"a Size in place of the metadata"):
        SavedTables(str(tmp_path)).read_metadata()


@pytest.mark.parametrize("path", ["/etc/passwd", "../other/__0_0.distcp"])
def test_a_path_out_is_refused(path: str, tmp_path: Path) -> None:
    where = folder(tmp_path) / ".metadata"
    metadata = pickle.loads(where.read_bytes())
    for info in metadata.storage_data.values():
        info.relative_path = path
    where.write_bytes(pickle.dumps(metadata))
    with pytest.raises(pickle.UnpicklingError, match=r"leads out of the checkpoint"):
        SavedTables(str(tmp_path)).read_metadata()
