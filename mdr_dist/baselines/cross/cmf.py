"""CMF: one embedding a user for all domains, one an item of each.

Paper: Singh and Gordon, "Relational Learning via Collective Matrix Factorization", KDD 2008, in the form that CAT-ART
compares with: all domains' interactions as one matrix, trained by BPR. The only equation is that of SMF, in
`Factors.losses`.

What differs: the public code draws a negative from all domains' items together; here it is an item of the row's own
domain, which is also what it is ranked against.

Shape letters: none.
"""

from __future__ import annotations

from mdr_dist.methods.backbones import Factors
from mdr_dist.methods.retrieve import RetrieveConfig
from mdr_dist.methods.shared import BackboneMethod
from mdr_dist.schema import Schema


class CMFConfig(RetrieveConfig):
    """Settings: those of every such method."""


class CMF(BackboneMethod):
    """One lane over all domains."""

    Config = CMFConfig

    def __init__(self, config: CMFConfig, schema: Schema) -> None:
        super().__init__(config, schema, Factors(config, schema))
