"""CMF: one embedding a user for all domains, one an item of each.

Paper: Singh and Gordon, "Relational Learning via Collective Matrix Factorization", KDD 2008, in the form that CAT-ART
compares with: all domains' interactions as one matrix, trained by BPR. The only equation is that of SMF, in
`RetrieveMethod.losses`.

What differs: the public code draws a negative from all domains' items together; here it is an item of the row's own
domain, which is also what it is ranked against.

Shape letters: none.
"""

from __future__ import annotations

from mdr_dist.methods.retrieve import RetrieveConfig, SharedRetrieveMethod
from mdr_dist.stage import Slice, Stage, Sum


class CMFConfig(RetrieveConfig):
    """Settings: those of every such method."""


class CMF(SharedRetrieveMethod):
    """One lane over all domains."""

    Config = CMFConfig

    def stages(self) -> tuple[Stage, ...]:
        """All domains together."""
        data = Slice(negatives=1)
        return (Stage(name="joint", loss=self.losses, data=data, update=Sum(self.weights()), until=self.until),)
