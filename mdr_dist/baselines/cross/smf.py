"""SMF: matrix factorisation in each domain by itself.

Paper: the single-domain baseline and first stage of CAT-ART, "One for All, All for One: Learning and Transferring User
Embeddings for Cross-Domain Recommendation", WSDM 2023; its loss is BPR (Rendle et al., UAI 2009). Every domain has its
own users' and items' embeddings and its own lane, so that domains train side by side and share nothing. The only
equation, the mean of softplus(<u, j> - <u, i>) and half the squared lengths, is in `RetrieveMethod.losses`.

What differs: a held-out loss that no longer falls ends a domain's training, on the data set's own validation split.

Shape letters: B rows, D width.
"""

from __future__ import annotations

from mdr_dist.methods.retrieve import RetrieveConfig, RetrieveMethod
from mdr_dist.stage import Stage


class SMFConfig(RetrieveConfig):
    """Settings: those of every such method."""


class SMF(RetrieveMethod):
    """A lane a domain."""

    Config = SMFConfig

    def stages(self) -> tuple[Stage, ...]:
        """Each domain by itself."""
        return tuple(self.single(k) for k in self.domains)
