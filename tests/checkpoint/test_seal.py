"""What `DONE` says of a checkpoint's files, and that nothing else is taken for them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mdr_dist.checkpoint.checkpoint import Checkpoints
from mdr_dist.checkpoint.seal import verify
from mdr_dist.errors import UserError
from support.groups import in_group

NAMES = {".metadata", "dense.safetensors", "progress.json"}


def saved(path: str) -> Path:
    """A checkpoint of a table that every process holds, number 3."""
    checkpoints = Checkpoints(path)
    checkpoints.save(3, tables={"t/weight": torch.arange(6.0)}, dense={"w": torch.ones(2)}, progress={"step": 3})
    return Path(checkpoints.folder(3))


def test_done_tells_every_file(tmp_path: Path) -> None:
    folder = saved(str(tmp_path))
    told = json.loads((folder / "DONE").read_text())["files"]
    assert told.keys() == {path.name for path in folder.iterdir()} - {"DONE"}
    for name, each in told.items():
        content = (folder / name).read_bytes()
        assert each == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert verify(str(folder)) == sum(each["bytes"] for each in told.values())


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "dense.safetensors", "progress.json"])
@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_what_is_not_as_it_was_written_is_refused(name: str, how: str, tmp_path: Path) -> None:
    folder = saved(str(tmp_path))
    file = folder / name
    if how == "gone":
        file.unlink()
    elif how == "cut":
        os.truncate(file, file.stat().st_size - 1)
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1  # one bit
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: (damaged|missing).*; restore it, or remove the folder"):
        verify(str(folder))
    with pytest.raises(UserError, match=r"damaged|missing"):
        Checkpoints(str(tmp_path)).load_tables(3, {"t/weight": torch.zeros(6)})
    if name in ("dense.safetensors", "progress.json"):
        read: Any = (
            Checkpoints(str(tmp_path)).dense if name.startswith("dense") else Checkpoints(str(tmp_path)).progress
        )
        with pytest.raises(UserError, match=r"damaged|no such file"):
            read(3)


def test_a_name_that_leads_out_is_refused(tmp_path: Path) -> None:
    folder = saved(str(tmp_path))
    told = json.loads((folder / "DONE").read_text())
    told["files"]["../../x"] = told["files"]["progress.json"]
    (folder / "DONE").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"leads out of the folder"):
        verify(str(folder))


def test_a_checkpoint_from_before_there_were_sums_loads(tmp_path: Path) -> None:
    folder = saved(str(tmp_path))
    (folder / "DONE").write_bytes(b"")
    tables = {"t/weight": torch.zeros(6)}
    Checkpoints(str(tmp_path)).load_tables(3, tables)
    assert tables["t/weight"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert verify(str(folder)) == 0


def _together(path: str) -> tuple[set[str], str]:
    folder = saved(path)
    told = set(json.loads((folder / "DONE").read_text())["files"])
    assert verify(str(folder)) > 0
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        (folder / ".metadata").write_bytes(b"another")
    torch.distributed.barrier()
    try:
        verify(str(folder))
    except UserError as error:
        return told, str(error)
    return told, ""


def test_processes_share_the_files_out_and_all_refuse(tmp_path: Path) -> None:
    results = in_group(2, _together, str(tmp_path))
    assert all(told >= NAMES and ".metadata: damaged" in said for told, said in results)
