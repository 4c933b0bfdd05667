"""CL4Rec: domains learnt one after the other in the same embeddings, a task mask keeping each one's dimensions.

Paper: Nguyen et al., "Continual Learning Based on Task Masking for Multi-Domain Recommendation", ACIIDS 2024, on matrix
factorisation. Its equations have no numbers. Users and items have one table each for all domains. A domain has a mask
of a user's and of an item's dimensions; training on it multiplies the embeddings by the masks (`domain_losses`), and
multiplies their gradient by what no earlier mask holds, 1 - max over the earlier masks (`free`). All domains are ranked
by one representation, the embeddings times the largest of all masks (`user_vector`, `item_vector`).

What differs, and why: the paper does not say how a mask that is cut at a threshold is learnt: here the gradient passes
the cut as if it were not there. The masks are trained in every domain, though the paper freezes all but the embeddings
after the first: a mask that is never trained would be noise. The loss is not stated: BPR with one negative of the
domain. Optimizer state starts anew with each domain: momentum would move what the mask protects.

Shape letters: B rows, D width, K domains.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mdr_dist.batch import Batch
from mdr_dist.errors import UserError
from mdr_dist.methods.retrieve import NEGATIVE, RetrieveConfig, SharedRetrieveMethod
from mdr_dist.nn import loss
from mdr_dist.schema import Schema
from mdr_dist.stage import Losses, Masked, Rows, Slice, Stage, fresh_optimizer


class CL4RecConfig(RetrieveConfig):
    """Settings. The paper tells none of their values; "choice" is this project's.

    mask        `soft`: the sigmoid of a trained number; `hard`: 1 where it exceeds `threshold`, else 0. Choice
    threshold   of a hard mask. Choice
    mask_std    deviation of the normal law that the trained numbers start from. Choice
    order       the domains in the order they are learnt; empty: the data set's
    masking     `on`; `inference`: training is masked, ranking is not (ablation); `off`: nothing is masked, and nothing
                but the first domain moves the embeddings (ablation, the reading that the paper's figures fit)
    specialize  whether earlier domains' dimensions are protected. False: every gradient passes (ablation)
    train_masks whether the masks of the second and later domains are trained. Choice
    forgetting  whether all domains are measured after each one, too: `after` in the result
    """

    mask: Literal["soft", "hard"] = "hard"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    mask_std: float = Field(default=1.0, ge=0)
    order: tuple[str, ...] = ()
    masking: Literal["on", "inference", "off"] = "on"
    specialize: bool = True
    train_masks: bool = True
    forgetting: bool = False


class CL4Rec(SharedRetrieveMethod):
    """One stage a domain, in order."""

    Config = CL4RecConfig
    config: CL4RecConfig

    def __init__(self, config: CL4RecConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        if config.order and sorted(config.order) != sorted(schema.domains):
            raise UserError(f"method.order: {', '.join(config.order)}; name each of {', '.join(schema.domains)} once")
        self.order = [schema.domain_index(name) for name in config.order] or list(self.domains)
        self.user_mask, self.item_mask = (
            nn.ParameterList(torch.randn(config.dim) * config.mask_std for _ in self.domains) for _ in range(2)
        )
        self.learnt: Tensor
        self.register_buffer("learnt", torch.zeros(len(self.domains)))  # 1 for domains that were trained on

    def gate(self, mask_D: Tensor) -> Tensor:
        """[D] f(mask): what a domain keeps of each dimension."""
        if self.config.masking == "off":
            return torch.ones_like(mask_D)
        soft_D = mask_D.sigmoid()
        if self.config.mask == "soft":
            return soft_D
        # the bracket is exactly 0, but not its gradient
        return (soft_D > self.config.threshold).to(soft_D) + (soft_D - soft_D.detach())

    def union(self, masks: nn.ParameterList) -> Tensor:
        """[D] the largest gate of the domains learnt so far; 1 before any is."""
        if self.config.masking != "on" or not self.learnt.any():
            return torch.ones_like(masks[0])
        return (torch.stack([self.gate(mask_D) for mask_D in masks]) * self.learnt[:, None]).amax(0)

    def free(self, place: int) -> dict[str, Tensor]:
        """Table → [D] the share of its gradient that the domain at this place of the order may use."""
        if not self.config.specialize or not place:
            return {}
        earlier = self.order[:place]
        pairs = {"user": self.user_mask, "item": self.item_mask}
        return {
            table: 1 - torch.stack([self.gate(masks[k]) for k in earlier]).amax(0).detach()
            for table, masks in pairs.items()
        }

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] the user, the same in all domains."""
        return self.own_user(rows, batch) * self.union(self.user_mask)

    def item_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] the item."""
        return self.own_item(rows, batch, self.schema.item) * self.union(self.item_mask)

    def domain_losses(self, rows: Rows, batch: Batch, *, domain: int) -> Losses:
        """`bpr` of the embeddings that the domain's masks leave and, where it has a weight, their `l2`."""
        self.learnt[domain] = 1
        user_BD = self.own_user(rows, batch) * self.gate(self.user_mask[domain])
        gate_D = self.gate(self.item_mask[domain])
        item_BD, negative_BD = (self.own_item(rows, batch, name) * gate_D for name in (self.schema.item, NEGATIVE))
        losses = {"bpr": loss.bpr((user_BD * (item_BD - negative_BD)).sum(1), batch)}
        if self.config.l2:
            losses["l2"] = loss.l2([user_BD, item_BD, negative_BD], batch)
        return losses

    def stages(self) -> tuple[Stage, ...]:
        """Domain by domain."""
        return tuple(self._stage(place, domain) for place, domain in enumerate(self.order))

    def _stage(self, place: int, domain: int) -> Stage:
        masks = (f"user_mask.{domain}", f"item_mask.{domain}")
        learns = self.config.masking != "off" and (self.config.train_masks or not place)
        return Stage(
            name=f"domain-{self.schema.domains[domain]}",
            loss=partial(self.domain_losses, domain=domain),
            data=Slice(domains=(domain,), negatives=1),
            train=("user", "item", *(masks if learns else ())),
            update=Masked(partial(self.free, place), self.weights()),
            until=self.until,
            before=(fresh_optimizer,) if place else (),
            test=Slice(split="test" if "test" in self.schema.rows else "val") if self.config.forgetting else None,
        )
