"""TADO: a backbone trained on all domains' interactions together.

Paper: the baseline of CL4Rec, Nguyen et al., "Continual Learning Based on Task Masking for Multi-Domain
Recommendation", ACIIDS 2024: its backbones, named in `methods/backbones.py` with their equations, without masks. By
matrix factorisation it is CMF.

What differs: the paper says neither how it is trained nor by which loss; here it is trained as CL4Rec is in a single
domain, negatives being items of the row's own domain.

Shape letters: none.
"""

from __future__ import annotations

from mdr_dist.methods.backbones import BackboneConfig, backbone_of
from mdr_dist.methods.shared import BackboneMethod
from mdr_dist.schema import Schema


class TADOConfig(BackboneConfig):
    """Settings: the backbone's."""


class TADO(BackboneMethod):
    """One lane over all domains."""

    Config = TADOConfig

    def __init__(self, config: TADOConfig, schema: Schema) -> None:
        super().__init__(config, schema, backbone_of(config, schema))
