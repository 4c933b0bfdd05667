"""R-DFM: DFM whose auto-encoders are also told what users and others wrote.

Paper: Fu et al., "Deeply Fusing Reviews and Contents for Cold Start Users in Cross-Domain Recommendation Systems", AAAI
2019: its RC-DFM with reviews alone, a baseline of CATN. The side information s of `dfm.py`'s equations is read
from what the user wrote in the domain, or from what is written about the item: of all its words' vectors the largest of
each number.

    s = max over the words w of a document of e_w                                                  (equation of `side`)

What differs, beside what `dfm.py` tells: reviews are one document, of as many words as the data set's text is wide; the
paper pools words' vectors of a review first. Vectors of words are trained, a domain's own, where the paper's stay as
word2vec made them; what s' is compared with counts as fixed, so that vectors gain nothing by being alike.

Shape letters: B rows, S width of a word's vector.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from mdr_dist.baselines.text.dfm import DFM, DFMConfig
from mdr_dist.baselines.text.pair import PairMethod
from mdr_dist.batch import Batch
from mdr_dist.methods.text import WORDS, documents_of, words_table
from mdr_dist.nn.text import chosen, largest
from mdr_dist.schema import Schema
from mdr_dist.stage import Rows, TableSpec


class RDFMConfig(DFMConfig):
    """Settings.

    word_dim  S. CATN's code: 300
    word_std  deviation of the normal law that word vectors start from, where the data set brings none. Choice
    told      weight of the squared error of s'. Choice
    """

    word_dim: int = Field(default=300, ge=1)
    word_std: float = Field(default=0.1, ge=0)
    told: float = Field(default=0.5, ge=0)


class RDFM(DFM):
    """The lanes of DFM."""

    Config = RDFMConfig
    config: RDFMConfig
    extras = replace(PairMethod.extras, documents=("user", "other", "item"))
    terms = (*DFM.terms, "told")

    def __init__(self, config: RDFMConfig, schema: Schema) -> None:
        self.text = schema.text
        super().__init__(config, schema)

    @property
    def side_width(self) -> int:
        """S."""
        return self.config.word_dim

    def tables(self) -> tuple[TableSpec, ...]:
        """Those of DFM and `words/<k>`."""
        words = words_table(self.text, dim=self.config.word_dim, std=self.config.word_std)
        return (*super().tables(), *(replace(words, name=f"{WORDS}/{k}") for k in self.domains))

    def pretrained(self) -> dict[str, str]:
        """The words start from the vectors that the data set may bring."""
        return {f"{WORDS}/{k}": self.text.vocabulary for k in self.domains}

    def side(self, role: str, rows: Rows, *, batch: Batch, domain: int) -> Tensor:
        """[B, S] of each row's document; 0 of one without words."""
        documents = documents_of(batch)
        at = documents.at
        at_B = at["item"] if role == "item" else torch.where(batch.domain == domain, at["user"], at["other"])
        document, place_B = at_B.unique(return_inverse=True)
        words = chosen(documents.words, document)
        return largest(rows[f"{WORDS}/{domain}.{WORDS}"], words)[place_B]

    def weights(self) -> dict[str, float]:
        """The losses' weights."""
        return {**super().weights(), "told": self.config.told}
