"""What methods share that read review text: the vectors of words.

Shape letters: W words of the batch, D width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mdr_dist.batch import Batch, Documents
from mdr_dist.methods.rate import RateConfig, RateMethod
from mdr_dist.rule import Sum
from mdr_dist.schema import Feature, Schema
from mdr_dist.stage import Init, Losses, Rows, TableSpec

WORDS = "words"


class TextConfig(RateConfig):
    """Settings common to these methods.

    word_dim     width of a word's vector. CATN's code: 300
    word_std     deviation of the normal law that word vectors start from, where the data set brings none. Choice
    dense_words  with so many words at most their vectors are a dense parameter, of which every step moves all; with
                 more a table. Choice
    l2           weight of half the squared length of the dense parameters, but words'. CATN's code
    """

    word_dim: int = Field(default=300, ge=1)
    word_std: float = Field(default=0.1, ge=0)
    dense_words: int = Field(default=100_000, ge=0)
    l2: float = Field(default=1e-5, ge=0)


class TextMethod(RateMethod):
    """A method that reads documents. A subclass says which (`extras`)."""

    Config = TextConfig
    unpenalised: ClassVar[tuple[str, ...]] = (WORDS,)  # dense parameters that `l2` leaves alone

    def __init__(self, config: TextConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.config = config
        self.text = schema.text
        self.words: Tensor | None = None
        if self.text.rows <= config.dense_words:
            self.words = nn.Parameter(torch.empty(self.text.rows, config.word_dim).normal_(0, config.word_std))

    def tables(self) -> tuple[TableSpec, ...]:
        """The biases' and, of many words, `words`."""
        if self.words is not None:
            return self.bias_tables()
        return (*self.bias_tables(), words_table(self.text, dim=self.config.word_dim, std=self.config.word_std))

    def pretrained(self) -> dict[str, str]:
        """The words start from the vectors that the data set may bring."""
        return {WORDS: self.text.vocabulary}

    def word_vectors(self, rows: Rows, batch: Batch) -> Tensor:
        """[W, D] of the list feature `words`, in which documents are places."""
        if self.words is None:
            return rows[f"{WORDS}.{WORDS}"]
        return functional.embedding(batch.lists[WORDS].values, self.words)

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`square` and, where it has a weight, `l2`."""
        losses = super().losses(rows, batch)
        if self.config.l2:
            named = [parameter for name, parameter in self.named_parameters() if name not in self.unpenalised]
            losses["l2"] = torch.stack([parameter.square().sum() / 2 for parameter in named]).sum()
        return losses

    def rule(self) -> Sum:
        """The losses' weights."""
        return Sum({"l2": self.config.l2} if self.config.l2 else {})


def words_table(text: Feature, *, dim: int, std: float) -> TableSpec:
    """A table of words' vectors, which start by a normal law of deviation `std`."""
    return TableSpec(name=WORDS, rows=text.rows, dim=dim, features=(WORDS,), pool="none", init=Init("normal", std))


def documents_of(batch: Batch) -> Documents:
    """The batch's documents."""
    if batch.documents is None:
        raise ValueError("the batch brings no documents; its source was not made with the method's extras")
    return batch.documents
