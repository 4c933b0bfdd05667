"""Dense parameters: the same in every process, averaged gradients, stepped by named torch optimizers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mdr_dist.batch import world_size
from mdr_dist.config import DenseConfig
from mdr_dist.stage import DenseOptimizer, Stage, matches

_CLASSES = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
}


class DenseOptimizers:
    """The optimizers of one stage. Parameters the stage does not train are frozen and left out.

    A trained parameter is stepped at every step: where a process saw no row that reaches it, its gradient counts as
    zero, so that what moves does not depend on how rows fell to processes.
    """

    def __init__(self, method: nn.Module, stage: Stage, config: DenseConfig) -> None:
        self._clip = config.clip
        self.trained: dict[str, nn.Parameter] = {}
        for name, parameter in method.named_parameters():
            parameter.requires_grad_(matches(name, stage.train))
            if parameter.requires_grad:
                self.trained[name] = parameter
        default = DenseOptimizer(config.optimizer, config.lr, config.weight_decay)
        groups: dict[DenseOptimizer, list[nn.Parameter]] = {}
        for name, parameter in self.trained.items():
            groups.setdefault(_choose(name, stage.optimizers, default), []).append(parameter)
        self._optimizers = [_make(spec, parameters) for spec, parameters in groups.items()]

    def step(self) -> None:
        """Average the gradients over processes in one exchange, step, and forget them."""
        if not self.trained:
            return
        for parameter in self.trained.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        if world_size() > 1:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            flat /= world_size()
            parts = flat.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        if self._clip:
            nn.utils.clip_grad_norm_(self.trained.values(), self._clip)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Optimizer state as `<parameter>/<key>` → tensor."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.trained.items()}
        return {
            f"{names[parameter]}/{key}": value
            for optimizer in self._optimizers
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load_state(self, saved: Mapping[str, Tensor]) -> None:
        """Take the state that `state` gave; that of parameters which this stage does not train is passed over."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    optimizer.state.pop(parameter, None)
        owner: dict[Tensor, torch.optim.Optimizer] = {
            p: o for o in self._optimizers for g in o.param_groups for p in g["params"]
        }
        for full, value in saved.items():
            name, _, key = full.rpartition("/")
            parameter = self.trained.get(name)
            if parameter is None:
                continue
            # torch's Adam keeps its step count on the CPU
            device = "cpu" if key == "step" else parameter.device
            owner[parameter].state[parameter][key] = value.to(device)


def _choose(name: str, optimizers: Mapping[str, DenseOptimizer], default: DenseOptimizer) -> DenseOptimizer:
    return next((spec for pattern, spec in optimizers.items() if matches(name, (pattern,))), default)


def _make(spec: DenseOptimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return _CLASSES[spec.name](parameters, lr=spec.lr, weight_decay=spec.weight_decay)
