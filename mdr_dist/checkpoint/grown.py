"""Taking up the checkpoint of a smaller model: ids or domains were added since; what these have starts as at first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.planner_helpers import _create_read_items

from mdr_dist.errors import UserError


@dataclass(frozen=True)
class Identity:
    """Whose checkpoints these are, by method and fingerprint of the schema, or of those that it has `grown_from`."""

    method: str
    schema: str
    grown_from: tuple[str, ...] = ()

    def to_json(self) -> dict[str, str]:
        """What a checkpoint keeps of it."""
        return {"method": self.method, "schema": self.schema}

    def check(self, theirs: Mapping[str, str], where: str) -> None:
        """Raise `UserError` unless a checkpoint with that identity may be taken up."""
        for key, mine in self.to_json().items():
            known = (mine, *self.grown_from) if key == "schema" else (mine,)
            if theirs[key] not in known:
                raise UserError(
                    f"{where}: checkpoint of {key} {theirs[key][:64]}, but this job's {key} is {mine[:64]}; "
                    "choose another run name"
                )


class GrownPlanner(DefaultLoadPlanner):
    """Fills the rows that were saved, and leaves those that a table has got since as they are."""

    def create_local_plan(self) -> LoadPlan:
        """What to read; `ValueError` for a tensor that is no larger form of the saved one."""
        assert self.metadata is not None
        saved, wanted = self.metadata.state_dict_metadata, self.state_dict
        for name, tensor in wanted.items():
            entry = saved.get(name)
            if isinstance(entry, TensorStorageMetadata) and not _extends(tensor.size(), entry.size):
                raise ValueError(f"{name} has the shape {list(entry.size)}, {list(tensor.size())} is needed")
        if missing := sorted(set(wanted) - set(saved)):
            raise ValueError(f"it lacks {missing[0]}")
        items = (_create_read_items(name, saved[name], tensor) for name, tensor in wanted.items())
        return LoadPlan([item for of_tensor in items for item in of_tensor])


def load_dense(method: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Take the saved dense tensors; what the model has got since stays. `UserError` if one does not fit."""
    current = method.state_dict()
    found = dict(current)
    for name, tensor in saved.items():
        if name not in current or not _extends(current[name].shape, tensor.shape):
            raise UserError(
                f"checkpoint: parameter {name!r} of shape {list(tensor.shape)} does not fit this job's method; "
                "choose another run name"
            )
        rest = current[name][len(tensor) :] if tensor.dim() else tensor
        found[name] = torch.cat([tensor.to(rest), rest]) if len(rest.shape) and len(rest) else tensor
    method.load_state_dict(found)


def _extends(size: torch.Size, saved: torch.Size) -> bool:
    """Whether a tensor of this size is one of the saved size with rows added."""
    return size == saved or (size[1:] == saved[1:] and len(size) == len(saved) > 0 and size[0] > saved[0])
