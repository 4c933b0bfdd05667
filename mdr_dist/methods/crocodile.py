"""Crocodile: disentangled representation with a cross-experts covariance loss for multi-domain recommendation.

Paper: "Disentangled Representation with Cross Experts Covariance Loss for Multi-Domain Recommendation", arXiv
2405.12706. Every expert reads its own set of embeddings, which all domains share, and a loss on the covariance between
experts' outputs keeps them from learning the same thing. A gate by domain, driven by separate prior embeddings of user,
item and domain, weighs the experts for each output dimension.

Equations 3, 4, 5 and 8 are in `_forward`, 6 in `CovLoss`, 7 in `loss.bce` and `weights`, 9 and 10 in
`Gate`. The text of the paper at hand has lost them; they were put together from its prose and two summaries of it.

What differs, and why: equation 6 sums over rows without dividing by their number. Here that sum is brought to the
paper's 4096 rows, so that `alpha` means the same at any size of batch or sample. The paper has single ids only: lists,
averaged, and dense features, appended to every expert's input, are ours.

Shape letters: B rows, N rows in the covariance, M experts, S embedding sets, K domains, I inputs of an expert,
D outputs of an expert, R inputs of a gate, P pairs of experts.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mdr_dist.batch import Batch
from mdr_dist.methods.rank import RankConfig, RankMethod
from mdr_dist.nn.domain import DomainGroups, DomainMLP
from mdr_dist.nn.experts import StackedMLP
from mdr_dist.nn.fields import table
from mdr_dist.schema import DOMAIN, Schema
from mdr_dist.stage import Losses, Rows, TableSpec

PAPER_ROWS = 4096  # the paper's batch: it says that 32 of its rows save 99.2% of the work


class CrocodileConfig(RankConfig):
    """Settings. "STEM": the same group's public code, for what the paper does not tell.

    num_experts         M. The paper's for KuaiRand
    sets                embedding sets; 0: one an expert (the paper), 1: one for all (its ablation)
    experts             widths of an expert's layers. STEM
    towers              hidden widths of a domain's tower. STEM
    prior_dim           width of a prior embedding. Ours, as `dim`
    gate                `peg`: prior, a weight a dimension (the paper); `pg`: prior, a weight an expert; `eg`: main
                        embeddings, a weight a dimension; `me`: main embeddings, a weight an expert; `none`: all alike.
                        Domain k's `eg` and `me` gates read set k mod S
    gate_hidden         hidden widths of the gate; none: one matrix (the paper). STEM's ME-MMoE: [128, 64]
    gate_softmax        over the `experts` for a dimension (what the paper's prose means), or the `dims` of an expert
    gate_stop_gradient  the gate does not train what drives it. The paper does not say so
    alpha               weight of CovLoss; 0: none. Ours: the paper tells only that less than 2e-5 is too small
    cov_rows            rows in CovLoss; 0: all (the paper), else a uniform sample, of which the paper finds 32 enough
    cov_norm            sum over rows, brought to 4096 (`none`), or divided by `n` or `n-1`. See the top of the file
    cov_pairs           different experts (`p>q`: the paper's complexity), or each with itself too (`p>=q`)
    """

    num_experts: int = Field(default=5, ge=1)
    sets: int = Field(default=0, ge=0)
    experts: tuple[int, ...] = Field(default=(512, 512, 512), min_length=1)
    towers: tuple[int, ...] = (128, 64)
    prior_dim: int = Field(default=16, ge=1)
    gate: Literal["peg", "pg", "eg", "me", "none"] = "peg"
    gate_hidden: tuple[int, ...] = ()
    gate_softmax: Literal["experts", "dims"] = "experts"
    gate_stop_gradient: bool = False
    alpha: float = Field(default=1e-4, ge=0)
    cov_rows: int = Field(default=0, ge=0)
    cov_norm: Literal["none", "n", "n-1"] = "none"
    cov_pairs: Literal["p>q", "p>=q"] = "p>q"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sets not in (0, 1, self.num_experts):
            raise ValueError("sets must be 0 (one an expert) or 1")
        if self.gate_softmax == "dims" and self.gate not in ("peg", "eg"):
            raise ValueError("gate_softmax 'dims' needs gate 'peg' or 'eg'")
        return self


class CovLoss:
    """Equation 6: the mean absolute entry of the experts' cross-covariance matrices, summed over pairs of experts.

    Exact over processes: means, products or sampled rows are totals, so every process holds the global batch's value.
    """

    def __init__(self, config: CrocodileConfig) -> None:
        own = int(config.cov_pairs == "p>=q")
        self.pairs = [(p, q) for p in range(config.num_experts) for q in range(p + own)]
        self.rows, self.norm = config.cov_rows, config.cov_norm

    def __call__(self, h_MBD: Tensor, batch: Batch) -> Tensor:
        """The scalar, before `alpha`. Rows of weight 0 count nowhere."""
        x_MND, n = self._sample(h_MBD, batch) if self.rows else self._all(h_MBD, batch)
        x = x_MND.unbind()
        c_PDD = torch.stack([x[p].T @ x[q] for p, q in self.pairs])
        c_PDD = c_PDD if self.rows else batch.total(c_PDD)
        scale = {"none": PAPER_ROWS / n, "n": 1 / n, "n-1": 1 / max(n - 1, 1)}[self.norm]
        return c_PDD.abs().sum() * (scale / h_MBD.shape[2] ** 2)

    def _all(self, h_MBD: Tensor, batch: Batch) -> tuple[Tensor, int]:
        # no gradient through the mean: centred rows sum to zero, so it would be zero
        mean_MD = batch.total(batch.weight @ h_MBD.detach()) / batch.count
        return (h_MBD - mean_MD[:, None]) * batch.weight[:, None], batch.count

    def _sample(self, h_MBD: Tensor, batch: Batch) -> tuple[Tensor, int]:
        place_B, n = batch.sample(self.rows), min(self.rows, batch.count)
        mine = (place_B >= 0).nonzero().squeeze(1)
        x_MND = h_MBD.new_zeros(len(h_MBD), n, h_MBD.shape[2])
        x_MND = batch.total(x_MND.index_copy(1, place_B[mine], h_MBD.index_select(1, mine)))
        return x_MND - x_MND.detach().mean(1, keepdim=True), n


class Gate(nn.Module):
    """Equations 9 and 10: weights of the experts, [B, M, D], or [B, M, 1] where one serves all dimensions."""

    def __init__(self, config: CrocodileConfig, inputs: int, domains: int) -> None:
        super().__init__()
        self.config = config
        self.width = config.experts[-1] if config.gate in ("peg", "eg") else 1
        widths = (inputs, *config.gate_hidden, config.num_experts * self.width)
        self.map = DomainMLP(domains, widths, bias=bool(config.gate_hidden))

    def forward(self, r_BR: Tensor, groups: DomainGroups) -> Tensor:
        """Softmax of what each row's domain makes of the gate's input."""
        r_BR = r_BR.detach() if self.config.gate_stop_gradient else r_BR
        g_BMD = self.map(r_BR, groups).view(len(r_BR), self.config.num_experts, self.width)
        return g_BMD.softmax(1 if self.config.gate_softmax == "experts" else 2)


class Crocodile(RankMethod):
    """Shared embedding sets, one expert each, gates and towers by domain, and a covariance loss on the experts."""

    Config = CrocodileConfig
    config: CrocodileConfig

    def __init__(self, config: CrocodileConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        inputs, outputs, domains = self.fields.width, config.experts[-1], len(schema.domains)
        self.sets = config.sets or config.num_experts
        self.prior = (schema.user, schema.item, DOMAIN) if config.gate in ("peg", "pg") else ()
        self.mixture = StackedMLP(config.num_experts, (inputs, *config.experts), dropout=config.dropout)
        driver = config.prior_dim * len(self.prior) or inputs
        self.gate = None if config.gate == "none" else Gate(config, driver, domains)
        self.towers = DomainMLP(domains, (outputs, *config.towers, 1), dropout=config.dropout)
        self.cov = CovLoss(config)

    def tables(self) -> tuple[TableSpec, ...]:
        """`set<p>/<vocabulary>` for the experts, `prior/<feature>` for the gate."""
        main = [spec for p in range(self.sets) for spec in self.fields.tables(f"set{p}/", init=self.init)]
        dim, init = self.config.prior_dim, self.init
        return (*main, *(table(f"prior/{name}", [self.schema[name]], dim=dim, init=init) for name in self.prior))

    def score(self, rows: Rows, batch: Batch) -> Tensor:
        """[B] the logit of each row's own domain."""
        return self._forward(rows, batch)[0]

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`bce`, `l2` and `cov`, unweighted; one of weight 0 is left out."""
        logit_B, h_MBD, _ = self._forward(rows, batch)
        losses = self.fit(logit_B, rows, batch)
        return losses | ({"cov": self.cov(h_MBD, batch)} if "cov" in self.weights() else {})

    def weights(self) -> dict[str, float]:
        """Equation 7's alpha, beside the weight of `l2`."""
        used = self.config.alpha > 0 and self.cov.pairs
        return super().weights() | ({"cov": self.config.alpha} if used else {})

    def experts(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, M, D]: what each expert says of each row."""
        return self._forward(rows, batch)[1].transpose(0, 1)

    def gates(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, M, D], or [B, M, 1] where one weight serves all dimensions: how each row's domain weighs the experts."""
        return self._forward(rows, batch)[2]

    def _forward(self, rows: Rows, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The logits [B], what the experts say [M, B, D], and the gates."""
        x_SBI = torch.stack([self.fields.vector(rows, batch, f"set{p}/") for p in range(self.sets)])
        h_MBD = self.mixture(x_SBI.expand(self.config.num_experts, -1, -1))
        groups = DomainGroups(batch.domain, len(self.schema.domains))
        g_BMD = self._gates(x_SBI, rows, batch, groups)
        t_BD = (g_BMD * h_MBD.transpose(0, 1)).sum(1)
        return self.towers(t_BD, groups).squeeze(1), h_MBD, g_BMD

    def _gates(self, x_SBI: Tensor, rows: Rows, batch: Batch, groups: DomainGroups) -> Tensor:
        if self.gate is None:
            return x_SBI.new_full((len(batch), self.config.num_experts, 1), 1 / self.config.num_experts)
        if self.prior:
            return self.gate(torch.cat([rows[f"prior/{name}.{name}"] for name in self.prior], dim=1), groups)
        row_B = torch.arange(len(batch), device=batch.domain.device)
        return self.gate(x_SBI[batch.domain % self.sets, row_B], groups)
