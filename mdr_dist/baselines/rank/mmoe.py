"""MMoE: experts that all domains share, mixed by a gate for each domain.

Paper: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018.
Several shared networks read the same input, and each domain learns from that input how much to make of each, so that
unlike domains can part without separate networks.

Equations: f_s(x) = sum_p softmax(gate_s(x))_p expert_p(x) is in `mix`, y_s = s(tower_s(f_s(x))) in `score`.

What differs: the paper's gate is one matrix; here it has hidden layers, as in the public code `LiangcaiSu/STEM`, whose
sizes these are. A row belongs to one domain and trains only its gate and tower.

Shape letters: B rows, I inputs, M experts, D outputs of an expert, K domains.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.methods.rank import RankConfig, RankMethod
from mdr_dist.nn.domain import DomainGroups, DomainMLP
from mdr_dist.nn.experts import StackedMLP
from mdr_dist.schema import Schema
from mdr_dist.stage import Rows


class MMoEConfig(RankConfig):
    """Settings.

    num_experts  M. STEM's
    experts      widths of an expert's layers. STEM's
    gate_hidden  hidden widths of a domain's gate; none: the paper's one matrix. STEM's
    towers       hidden widths of a domain's tower. STEM's
    """

    num_experts: int = Field(default=8, ge=1)
    experts: tuple[int, ...] = Field(default=(512, 512, 512), min_length=1)
    gate_hidden: tuple[int, ...] = (128, 64)
    towers: tuple[int, ...] = (128, 64)


class MMoE(RankMethod):
    """Embeddings, shared experts, a gate and a tower a domain."""

    Config = MMoEConfig
    config: MMoEConfig

    def __init__(self, config: MMoEConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        inputs, domains, dropout = self.fields.width, len(schema.domains), config.dropout
        self.mixture = StackedMLP(config.num_experts, (inputs, *config.experts), dropout=dropout)
        self.gate = DomainMLP(domains, (inputs, *config.gate_hidden, config.num_experts), dropout=dropout)
        self.towers = DomainMLP(domains, (config.experts[-1], *config.towers, 1), dropout=dropout)

    def score(self, rows: Rows, batch: Batch) -> Tensor:
        """[B] the logit of the row's own domain."""
        x_BI = self.fields.vector(rows, batch)
        groups = DomainGroups(batch.domain, len(self.schema.domains))
        return self.towers(self.mix(x_BI, groups), groups).squeeze(1)

    def mix(self, x_BI: Tensor, groups: DomainGroups) -> Tensor:
        """[B, D]: the experts, weighed by the row's own domain."""
        h_MBD = self.mixture(x_BI.expand(self.config.num_experts, -1, -1))
        g_BM = self.gate(x_BI, groups).softmax(1)
        return (g_BM.T[:, :, None] * h_MBD).sum(0)
