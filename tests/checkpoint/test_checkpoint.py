"""What lies on disk, what counts as a checkpoint, and what is said of a damaged one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mdr_dist import storage
from mdr_dist.checkpoint.checkpoint import DONE, Checkpoints
from mdr_dist.errors import UserError
from mdr_dist.stage import TableSpec
from mdr_dist.tables import read_table

SPEC = TableSpec(name="user", rows=40, dim=3, features=("user",))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(str(tmp_path / "lane"))


def table(number: int) -> torch.Tensor:
    return torch.arange(120.0).view(40, 3) + number


def save(checkpoints: Checkpoints, *numbers: int) -> None:
    for number in numbers:
        dense = {"model/w": torch.full((2, 2), float(number)).T, "optimizer/w/step": torch.tensor(float(number))}
        checkpoints.save(number, tables={"user/weight": table(number)}, dense=dense, progress={"total": number})


def read(checkpoints: Checkpoints, number: int) -> torch.Tensor:
    tables = {"user/weight": torch.zeros(40, 3)}
    checkpoints.load_tables(number, tables)
    return tables["user/weight"]


def test_what_was_saved_is_read(checkpoints: Checkpoints) -> None:
    save(checkpoints, 3, 7)
    assert checkpoints.numbers() == [3, 7]
    assert checkpoints.latest() == 7
    assert torch.equal(read(checkpoints, 3), table(3))
    assert torch.equal(read_table(checkpoints.folder(3), SPEC, row_start=8, row_end=20), table(3)[8:20])
    assert checkpoints.progress(7) == {"total": 7}
    dense = checkpoints.dense(7)
    assert torch.equal(dense["model/w"], torch.full((2, 2), 7.0)) and float(dense["optimizer/w/step"]) == 7


def test_a_folder_without_done_does_not_exist(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest() is None
    save(checkpoints, 3, 7)
    Path(checkpoints.folder(7), DONE).unlink()
    Path(checkpoints.folder(7)).parent.joinpath("000009.tmp").mkdir()
    assert checkpoints.numbers() == [3]
    assert checkpoints.latest() == 3


def test_numbers_are_ordered_beyond_six_digits(checkpoints: Checkpoints) -> None:
    for number in (1_000_000, 999_999, 5):
        storage.write_bytes(storage.join(checkpoints.folder(number), DONE), b"")
    assert checkpoints.numbers() == [5, 999_999, 1_000_000]
    assert checkpoints.latest() == 1_000_000


def test_a_killed_attempt_leaves_nothing_in_a_later_save(checkpoints: Checkpoints) -> None:
    left = Path(checkpoints.folder(3), "__1_0.distcp")  # of a second process that there is no more
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a shard")
    save(checkpoints, 3)
    assert not left.exists()
    assert torch.equal(read(checkpoints, 3), table(3))


def test_prune_keeps_the_newest_and_the_best(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, 2, 3, 4, 5)
    unfinished = Path(checkpoints.folder(6))
    unfinished.mkdir()  # another process may be writing it
    checkpoints.prune(2, also=1)
    assert checkpoints.numbers() == [1, 4, 5]
    assert not Path(checkpoints.folder(2)).exists()
    assert unfinished.exists()
    checkpoints.prune(1)
    assert checkpoints.numbers() == [5]


@pytest.mark.parametrize("what", ["prune", "save"])
def test_a_folder_half_removed_is_no_checkpoint(
    what: str, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(checkpoints, 1, 2)
    remove = storage.remove

    def killed(url: str) -> None:
        if url == checkpoints.folder(1):
            Path(url, ".metadata").unlink()
            raise KeyboardInterrupt
        remove(url)

    monkeypatch.setattr(storage, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.prune(1) if what == "prune" else save(checkpoints, 1)
    assert checkpoints.numbers() == [2]


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "dense.safetensors", "progress.json"])
@pytest.mark.parametrize("damage", ["short", "empty", "gone"])
def test_a_damaged_checkpoint_is_named(name: str, damage: str, checkpoints: Checkpoints) -> None:
    save(checkpoints, 3)
    folder = checkpoints.folder(3)
    path = Path(folder, name)
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "short" else b"")
    with pytest.raises(UserError) as caught:
        if name == "progress.json":
            checkpoints.progress(3)
        elif name == "dense.safetensors":
            checkpoints.dense(3)
        else:
            read(checkpoints, 3)
    message = str(caught.value)
    assert message.startswith(folder) and "\n" not in message
    assert name in message or "the tables do not load: " in message
