"""CL4Rec: domains learnt one after the other in the same embeddings, a task mask keeping each one's dimensions.

Paper: Nguyen et al., "Continual Learning Based on Task Masking for Multi-Domain Recommendation", ACIIDS 2024. Its
equations have no numbers. A backbone (`backbones.py`) has two tables for all domains. A domain has a mask of each
one's dimensions; training on it multiplies the embeddings by the masks (`domain_losses`), and multiplies their gradient
by what no earlier mask holds, 1 - max over the earlier masks (`free`). The backbone's own weights are trained in the
first domain alone. All domains are ranked by one representation, the embeddings times the largest of all masks
(`user_vector`, `item_vector`). Hard masks may leave a later domain little to learn in: the loss `free`, which trains
nothing, is the share of both tables' dimensions that the domain may move.

What differs, and why: the paper does not say how a mask that is cut at a threshold is learnt: here the gradient passes
the cut as if it were not there. The masks are trained in every domain, though the paper freezes all but the embeddings
after the first: a mask that is never trained would be noise. The loss is not stated: the backbone's. The auto-encoder's
tables are the paper's "two item embeddings"; the user's mask is that of its encoder. Histories and neighbours are of
the domains learnt so far, as where all are ranked, not of the one being learnt alone. Optimizer state starts anew with
each domain: momentum would move what the mask protects. As an option masks are learnt as in HAT (Serra et al.,
"Overcoming Catastrophic Forgetting with Hard Attention to the Task", ICML 2018; its public code), which the paper's
masks come from.

Shape letters: B rows, D width of a table, O width of a vector, K domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mdr_dist.batch import Batch
from mdr_dist.errors import UserError
from mdr_dist.methods.backbones import BackboneConfig, backbone_of
from mdr_dist.methods.shared import BackboneMethod
from mdr_dist.rule import Masked
from mdr_dist.schema import Schema
from mdr_dist.stage import Losses, Rows, Slice, Stage, fresh_optimizer

SCALE, LARGEST, STEEPEST = 400.0, 6.0, 50.0  # HAT's: of the last step, of a trained number, of the two's product


class CL4RecConfig(BackboneConfig):
    """Settings. The paper tells none of their values; "choice" is this project's.

    mask        `soft`: the sigmoid of a trained number; `hard`: 1 where it exceeds `threshold`, else 0. Choice
    threshold   of a hard mask. Choice
    mask_std    deviation of the normal law that the trained numbers start from. Choice
    annealing   `hat`: the trained number is scaled by 1/400 at an epoch's first step up to 400 at its last, and after
                training by 400, so that soft masks become hard. Choice: none
    sparsity    with `hat`, weight of the mask's mean over the dimensions that are still free. HAT
    order       the domains in the order they are learnt; empty: the data set's. A later run may go on with others
    masking     `on`; `inference`: training is masked, ranking is not (ablation); `off`: nothing is masked, and nothing
                but the first domain moves the embeddings (ablation, the reading that the paper's figures fit)
    specialize  whether earlier domains' dimensions are protected. False: every gradient passes (ablation)
    train_masks whether the masks of the second and later domains are trained. Choice
    forgetting  whether all domains are measured after each one, too: `after` in the result
    """

    mask: Literal["soft", "hard"] = "hard"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    mask_std: float = Field(default=1.0, ge=0)
    annealing: Literal["none", "hat"] = "none"
    sparsity: float = Field(default=0.75, ge=0)
    order: tuple[str, ...] = ()
    masking: Literal["on", "inference", "off"] = "on"
    specialize: bool = True
    train_masks: bool = True
    forgetting: bool = False


class CL4Rec(BackboneMethod):
    """One stage a domain, in order."""

    Config = CL4RecConfig
    config: CL4RecConfig

    def __init__(self, config: CL4RecConfig, schema: Schema) -> None:
        super().__init__(config, schema, backbone_of(config, schema))
        self.order = [schema.domain_index(name) for name in config.order] or list(self.domains)
        if len(set(self.order)) < len(self.order):
            raise UserError(f"method.order: {', '.join(config.order)}; name a domain once")
        self.user_mask, self.item_mask = (
            nn.ParameterList(torch.randn(config.dim) * config.mask_std for _ in self.domains) for _ in range(2)
        )
        self.learnt: Tensor
        self.register_buffer("learnt", torch.zeros(len(self.domains)))  # 1 for domains that were trained on

    @property
    def masks(self) -> dict[str, nn.ParameterList]:
        """Table → its masks by domain."""
        return {spec.name: masks for spec, masks in zip(self.tables(), (self.user_mask, self.item_mask), strict=True)}

    def gate(self, mask_D: Tensor, *, progress: float = 1.0) -> Tensor:
        """[D] f(mask): what a domain keeps of each dimension, with `progress` of an epoch's annealing."""
        if self.config.masking == "off":
            return torch.ones_like(mask_D)
        soft_D = mask_D.sigmoid() if self.config.annealing == "none" else annealed(mask_D, progress)
        if self.config.mask == "soft":
            return soft_D
        # the bracket is exactly 0, but not its gradient
        return (soft_D > self.config.threshold).to(soft_D) + (soft_D - soft_D.detach())

    def union(self, masks: nn.ParameterList) -> Tensor:
        """[D] the largest gate of the domains learnt so far; 1 before any is."""
        if self.config.masking != "on" or not self.learnt.any():
            return torch.ones_like(masks[0])
        return (torch.stack([self.gate(mask_D) for mask_D in masks]) * self.learnt[:, None]).amax(0)

    def spared(self, place: int) -> dict[str, Tensor]:
        """Table → [D] 1 less the largest gate of the domains before this place of the order."""
        return {
            table: 1
            - torch.stack([torch.zeros_like(masks[0]), *(self.gate(masks[k]) for k in self.order[:place])])
            .amax(0)
            .detach()
            for table, masks in self.masks.items()
        }

    def free(self, place: int) -> dict[str, Tensor]:
        """Table → [D] the share of its gradient that the domain at this place of the order may use."""
        return self.spared(place) if self.config.specialize and place else {}

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, O] the user, the same in all domains."""
        return self.backbone.user_vector(self._masked(rows), batch)

    def item_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, O] the item."""
        return self.backbone.item_vector(self._masked(rows), batch)

    def _masked(self, rows: Rows) -> Rows:
        return masked(rows, {table: self.union(masks) for table, masks in self.masks.items()})

    def domain_losses(self, rows: Rows, batch: Batch, *, domain: int) -> Losses:
        """The backbone's, of what the domain's masks leave of the embeddings; `free` and, with HAT, `sparsity`."""
        place = self.order.index(domain)
        if place and not self.learnt[self.order[place - 1]]:
            names = [self.schema.domains[k] for k in (self.order[place - 1], domain)]
            raise UserError(f"method.order: {names[0]}, which is not trained on here, is to come before {names[1]}")
        self.learnt[domain] = 1
        if self.config.annealing == "hat":
            with torch.no_grad():
                for masks in self.masks.values():
                    masks[domain].clamp_(-LARGEST, LARGEST)
        progress = batch.progress if self.training else 1.0
        gates = {table: self.gate(masks[domain], progress=progress) for table, masks in self.masks.items()}
        losses = self.backbone.losses(masked(rows, gates), batch)
        free = self.free(place) or {table: torch.ones_like(gate_D) for table, gate_D in gates.items()}
        losses["free"] = torch.cat(list(free.values())).mean()
        if self.config.annealing == "hat":
            spared, gate = (torch.cat(list(parts.values())) for parts in (self.spared(place), gates))
            losses["sparsity"] = (gate * spared).sum() / spared.sum().clamp(min=1e-6)
        return losses

    def weights(self) -> dict[str, float]:
        """What regularizes counts by its weight, and `free` not at all."""
        sparsity = {"sparsity": self.config.sparsity} if self.config.annealing == "hat" else {}
        return {**super().weights(), "free": 0.0, **sparsity}

    def stages(self) -> tuple[Stage, ...]:
        """Domain by domain."""
        return tuple(self._stage(place, domain) for place, domain in enumerate(self.order))

    @property
    def _last_split(self) -> str:
        return "test" if "test" in self.schema.rows else "val"

    def _stage(self, place: int, domain: int) -> Stage:
        learns = self.config.masking != "off" and (self.config.train_masks or not place)
        masks = (f"user_mask.{domain}", f"item_mask.{domain}") if learns else ()
        layers = ("backbone.*",) if not place and list(self.backbone.parameters()) else ()
        known = tuple(self.order[: place + 1])
        return Stage(
            name=f"domain-{self.schema.domains[domain]}",
            loss=partial(self.domain_losses, domain=domain),
            data=replace(self.backbone.data, domains=(domain,), context=known),
            train=(*self.masks, *masks, *layers),
            update=Masked(partial(self.free, place), self.weights()),
            until=self.until,
            before=(fresh_optimizer,) if place else (),
            test=Slice(split=self._last_split, context=known) if self.config.forgetting else None,
        )


def annealed(mask_D: Tensor, progress: float) -> Tensor:
    """[D] HAT's sigmoid of scale * mask; its gradient is as large as if the scale had been SCALE and the mask small."""
    scale = 1 / SCALE + (SCALE - 1 / SCALE) * progress
    soft_D, fixed_D = (scale * mask_D).sigmoid(), mask_D.detach()
    factor_D = SCALE / scale * ((scale * fixed_D).clamp(-STEEPEST, STEEPEST).cosh() + 1) / (fixed_D.cosh() + 1)
    return soft_D.detach() + factor_D * (soft_D - soft_D.detach())


def masked(rows: Rows, gates: Mapping[str, Tensor]) -> Rows:
    """The rows of each table times its [D] factors."""
    return {key: row * gates[key.rpartition(".")[0]] for key, row in rows.items()}
