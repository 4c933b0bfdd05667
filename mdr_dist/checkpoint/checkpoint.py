"""Numbered checkpoint folders; one without `DONE` does not exist.

000400/  .metadata and shards   tables with optimizer state, by torch.distributed.checkpoint, each process its own
         dense.safetensors      dense parameters, buffers and their optimizer state, written by process 0
         progress.json          where the run stood, and whose checkpoint it is
         DONE                   written last: every file's bytes and sha256
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.distributed.checkpoint import load, save  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.checkpoint.api import CheckpointException

from mdr_dist import storage
from mdr_dist.batch import world_size
from mdr_dist.checkpoint.grown import GrownPlanner, Identity
from mdr_dist.checkpoint.seal import DONE, WHAT_NOW, SealedWriter, Sum, checked, gathered, seal, verify
from mdr_dist.errors import UserError
from mdr_dist.tables.saved import SavedTables

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRESS, DENSE = "progress.json", "dense.safetensors"


class Checkpoints:
    """The checkpoints of one lane. `save`, `load` and `prune` are called by every process together."""

    def __init__(self, url: str) -> None:
        self._url = url

    def folder(self, number: int) -> str:
        """Where a checkpoint lies."""
        return storage.join(self._url, f"{number:06d}")

    def numbers(self) -> list[int]:
        """The finished checkpoints, oldest first."""
        ends = (path.partition("/") for path in storage.files(self._url))
        return sorted(int(folder) for folder, _, name in ends if folder.isdigit() and name == DONE)

    def latest(self) -> int | None:
        """The newest finished checkpoint, as process 0 sees it."""
        seen: list[int | None] = [(self.numbers() or [None])[-1]] if is_first() else [None]
        if world_size() > 1:
            dist.broadcast_object_list(seen)
        return seen[0]

    def save(
        self, number: int, *, tables: dict[str, Any], dense: Mapping[str, Tensor], progress: dict[str, Any]
    ) -> None:
        """Write a checkpoint; what an earlier, killed attempt left under the number goes first."""
        folder = self.folder(number)
        if is_first():
            self._remove(number)
            storage.make_folder(folder)
        barrier()
        writer = SealedWriter(folder)
        with quiet(), _writing():
            save(tables, storage_writer=writer, no_dist=world_size() == 1)
        sums = gathered(writer.sums)
        if is_first():
            files = {DENSE: save_tensors(contiguous(dense)), PROGRESS: storage.as_json(progress)}
            for name, data in files.items():
                storage.write_bytes(storage.join(folder, name), data)
            seal(folder, sums | {name: Sum.of(data) for name, data in files.items()})
        barrier()

    def progress(self, number: int) -> dict[str, Any]:
        """A checkpoint's `progress.json`."""
        folder = self.folder(number)
        return storage.parsed(checked(folder, PROGRESS), storage.join(folder, PROGRESS))

    def check(self, number: int, identity: Identity) -> None:
        """Raise `UserError` unless a checkpoint is of this method and schema, or of one that this has grown from."""
        identity.check(self.progress(number)["identity"], self.folder(number))

    def dense(self, number: int) -> dict[str, Tensor]:
        """A checkpoint's dense tensors."""
        path = storage.join(self.folder(number), DENSE)
        try:
            return load_tensors(checked(self.folder(number), DENSE))
        except SafetensorError as error:
            raise UserError(f"{path}: damaged: {error}; {WHAT_NOW}") from error

    def load_tables(self, number: int, tables: dict[str, Any]) -> None:
        """Fill table state in place, whatever placement and number of processes wrote it.

        Rows that a table has got since stay as they are.
        """
        verify(self.folder(number))
        with quiet(), reading(self.folder(number)):
            reader, alone = SavedTables(self.folder(number)), world_size() == 1
            load(tables, storage_reader=reader, planner=GrownPlanner(), no_dist=alone)

    def prune(self, keep: int, *, also: int = -1) -> None:
        """Remove all but the newest `keep` finished checkpoints and number `also`."""
        if is_first():
            numbers = self.numbers()
            for number in numbers[:-keep]:
                if number != also:
                    self._remove(number)

    def _remove(self, number: int) -> None:
        # unmark first: a folder half removed must not pass for a checkpoint
        storage.remove(storage.join(self.folder(number), DONE))
        storage.remove(self.folder(number))


@contextmanager
def reading(folder: str) -> Iterator[None]:
    """Make what reading a damaged checkpoint's tables raises a `UserError`."""
    try:
        yield
    except CheckpointException as error:
        if isinstance(cause := _cause(error), UserError):
            raise cause from error
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise UserError(f"{folder}: the tables do not load: {reason}; {WHAT_NOW}") from error


@contextmanager
def _writing() -> Iterator[None]:
    """Make what the store refuses while tables are saved a `UserError`."""
    try:
        yield
    except CheckpointException as error:
        if isinstance(cause := _cause(error), UserError):
            raise cause from error
        raise


def _cause(error: CheckpointException) -> BaseException:
    """What went wrong in the first process in which something did."""
    return next(iter(error.failures.values()))[0]


def contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: on the CPU, contiguous, sharing no memory."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def is_first() -> bool:
    """Whether this is process 0."""
    return world_size() == 1 or dist.get_rank() == 0


def barrier() -> None:
    """Wait for every process."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's notes on its own deprecated types (ShardedTensor under DCP) from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
