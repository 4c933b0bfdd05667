"""SML: every period a small network makes the new embeddings out of the old ones and of those fitted to the period.

Paper: Zhang et al., "How to Retrain Recommender System? A Sequential Meta-Learning Method", SIGIR 2020, on matrix
factorisation. W(t-1) are a user's or item's embeddings so far, `_last`; W^ those fitted to period t, `_hat`; a transfer
network f (`TransferNet`, section 3.2.1) makes W(t) = f(W(t-1), W^), which is served: the tables `user` and `item`. A
period takes turns (Algorithm 1): equation 6 fits W^ to period t through f (`fit`), equation 7 trains f so that what it
makes fits the period after (`look_ahead`). Then W(t) is made anew (`TableOperations.map_rows`). The last period, after
which there is none yet, is fitted once, and served (Algorithm 2).

What differs: W^ is a table of its own and never the served one, so that both readings of where it goes on after a
round, Algorithm 1's and the public code's, are one copy apart (`restart`). Negatives are items that the user has not
taken, of those seen so far for equation 6, of the next period for equation 7; the public code can draw the positive. Of
a zero vector the product with itself over its length is 0, in the code not a number.

Shape letters: B rows, N rows of a table, D width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mdr_dist.batch import Batch
from mdr_dist.methods.periodic import PeriodicConfig, PeriodicMethod, name_of
from mdr_dist.nn import loss
from mdr_dist.schema import Schema
from mdr_dist.stage import DenseOptimizer, Losses, Rows, Slice, Stage, TableOp, TableOperations, TableSpec

TABLES = ("user", "item")


class SMLConfig(PeriodicConfig):
    """Settings. "Code": `zyang1580/SML`, by the authors.

    epochs           passes over a period in a round, fitting W^. Code: 1 on Yelp, 2 on Adressa
    transfer_epochs  passes over the next period in a round, training f. Code: as `epochs`
    rounds           times that the two take turns in a period. Code: 10 on Yelp, 7 on Adressa
    restart          where W^ goes on in the next round: from what f made of it (`transferred`, the public code) or from
                     where it stands (`hat`, Algorithm 1)
    filters          channels of the two convolutions. Paper
    hidden           width of f's hidden layer. Code
    transfer_lr      learning rate of f, by Adam. Code
    decay            L2 on f, as Adam's weight decay. Code
    """

    epochs: int = Field(default=1, ge=1)
    transfer_epochs: int = Field(default=1, ge=1)
    rounds: int = Field(default=10, ge=1)
    restart: Literal["transferred", "hat"] = "transferred"
    filters: tuple[int, int] = (10, 5)
    hidden: int = Field(default=512, ge=1)
    transfer_lr: float = Field(default=1e-3, gt=0)
    decay: float = Field(default=1e-4, ge=0)


class TransferNet(nn.Module):
    """f: [N, D] and [N, D] → [N, D], every row by itself."""

    def __init__(self, dim: int, config: SMLConfig) -> None:
        super().__init__()
        filters, hidden = config.filters, config.hidden
        # a filter over the three vectors of a column, and one over the channels: linear maps shared by all D columns.
        # They start as torch has it, as in the code: with biases of 0 zero vectors would be made of zero vectors
        self.first, self.second = nn.Linear(3, filters[0]), nn.Linear(filters[0], filters[1])
        self.hidden, self.out = nn.Linear(filters[1] * dim, hidden), nn.Linear(hidden, dim)

    def forward(self, last_ND: Tensor, hat_ND: Tensor) -> Tensor:
        """[N, D]"""
        with torch.no_grad():
            both_ND = last_ND * hat_ND / last_ND.norm(dim=1, keepdim=True).clamp(min=1e-8)
        x_NDC = torch.stack([last_ND, hat_ND, both_ND], dim=2)
        x_NDC = gelu(self.second(gelu(self.first(x_NDC))))
        return self.out(gelu(self.hidden(x_NDC.transpose(1, 2).flatten(1))))


def gelu(x: Tensor) -> Tensor:
    """The sigmoid form of GELU: x s(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


class SML(PeriodicMethod):
    """Two stages a round, `rounds` a period."""

    Config = SMLConfig
    config: SMLConfig

    def __init__(self, config: SMLConfig, schema: Schema) -> None:
        super().__init__(config, schema)
        self.transfer = nn.ModuleDict({name: TransferNet(config.dim, config) for name in TABLES})

    def tables(self) -> tuple[TableSpec, ...]:
        """`user`, `item`, and `_last` and `_hat` of each, placed like it."""
        served = super().tables()
        copies = (replace(spec, name=f"{spec.name}_{which}", like=spec.name) for spec in served for which in COPIES)
        return (*served, *copies)

    def transferred_losses(self, rows: Rows, batch: Batch) -> Losses:
        """`log_loss` of what f makes of the rows; `l2` of W^, where it has a weight."""
        copies = [[rows[f"{table}_{which}.{feature}"] for which in COPIES] for table, feature in self.looked_up]
        made = [self.transfer[table](*two) for (table, _), two in zip(self.looked_up, copies, strict=True)]
        losses = {"log_loss": self.log_loss(made[0], made[1], negative_BD=made[2], batch=batch)}
        if self.config.l2:
            losses["l2"] = loss.l2([hat_BD for _, hat_BD in copies], batch)
        return losses

    def stages(self) -> tuple[Stage, ...]:
        """The start, and then period by period."""
        start, *rest = super().stages()
        # later periods are met in the look-ahead of the one before
        return (start, replace(rest[0], pretest=self.met(self.config.first)), *rest[1:])

    def learn(self, period: int) -> tuple[Stage, ...]:
        """The rounds of a period; of the last, after which nothing can be looked ahead to yet, the first fit."""
        return tuple(self._rounds(period))

    def _rounds(self, period: int) -> Iterator[Stage]:
        rounds = self.config.rounds if period + 1 < self.schema.periods else 1
        for number in range(rounds):
            yield self._fit(period, number)
            if period + 1 < self.schema.periods:
                yield self._look_ahead(period, number)

    def _fit(self, period: int, number: int) -> Stage:
        """Equation 6."""
        again = tuple(copy(table, f"{table}_hat") for table in TABLES)
        begin = COPY if not number else again if self.config.restart == "transferred" else ()
        data, fitted = Slice(period=period, negatives=1), tuple(f"{table}_hat" for table in TABLES)
        stage = self.stage(f"{name_of(period)}-{number}-fit", data, epochs=self.config.epochs)
        return replace(
            stage,
            loss=self.transferred_losses,
            train=fitted,
            read=READ,
            before=begin,
            after=(self._serve,),
        )

    def _look_ahead(self, period: int, number: int) -> Stage:
        """Equation 7."""
        data, name = Slice(period=period + 1, negatives=1, pool="period"), f"{name_of(period)}-{number}-look-ahead"
        optimizer = DenseOptimizer("adam", self.config.transfer_lr, self.config.decay)
        return replace(
            self.stage(name, data, epochs=self.config.transfer_epochs),
            loss=self.transferred_losses,
            train=("transfer.*",),
            read=READ,
            optimizers={"transfer.*": optimizer},
            pretest=None if number else self.met(period + 1),
            after=(self._serve,) if number == self.config.rounds - 1 else (),
        )

    def _serve(self, tables: TableOperations) -> None:
        """W(t) made anew."""
        for table in TABLES:
            tables.map_rows(table, self.transfer[table], f"{table}_last", f"{table}_hat")


COPIES = ("last", "hat")
READ = tuple(f"{table}_{which}" for table in TABLES for which in COPIES)


def copy(source: str, into: str) -> TableOp:
    """The operation that makes one table a copy of another."""

    def operation(tables: TableOperations) -> None:
        tables.map_rows(into, lambda rows: rows, source)

    return operation


COPY = tuple(copy(table, f"{table}_{which}") for table in TABLES for which in COPIES)
