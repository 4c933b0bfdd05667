"""What methods share that learn period by period: one user and one item table, and when the model is measured.

The periods before `first` are learnt together, as a start. Then each is met first, with the model of the periods before
it, and learnt afterwards: the order in which a service that is trained again every period sees its data. A data set
that has grown by a period adds stages to the end of the schedule, so that a finished run goes on where it stands.

Shape letters: B rows, D width.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field
from torch import Tensor

from mdr_dist.batch import Batch
from mdr_dist.errors import UserError
from mdr_dist.methods.backbones import Factors
from mdr_dist.methods.retrieve import NEGATIVE, RetrieveConfig
from mdr_dist.methods.shared import BackboneMethod
from mdr_dist.nn import loss
from mdr_dist.rule import Sum
from mdr_dist.schema import Schema
from mdr_dist.stage import Losses, Rows, Slice, Stage, Until


class PeriodicConfig(RetrieveConfig):
    """Settings common to these methods. "Code": `zyang1580/SML`, by the authors of SML.

    l2           weight of half the mean squared length of the user's, the item's and the negative's embeddings. Code:
                 1e-6 times their sum over a batch of 1,024
    first        the first period that is learnt by itself; those before are learnt together. Code: 10 of 40 on Yelp
    tested       from which period on each is met before it is learnt, so that the model is measured on it; 0: from
                 `first` on. Code: 30 of 40 on Yelp
    first_epochs passes over the periods before `first`. Choice
    epochs       passes over a period
    """

    l2: float = Field(default=1e-3, ge=0)
    first: int = Field(default=1, ge=1)
    tested: int = Field(default=0, ge=0)
    first_epochs: int = Field(default=20, ge=1)
    epochs: int = Field(default=1, ge=1)


class PeriodicMethod(BackboneMethod):
    """Matrix factorisation by log loss with one negative a positive row; a subclass says what a period adds."""

    Config = PeriodicConfig

    def __init__(self, config: PeriodicConfig, schema: Schema) -> None:
        super().__init__(config, schema, Factors(config, schema))
        self.config = config
        self.tested = config.tested or config.first
        last = schema.periods - 1
        if last < 1:
            raise UserError(f"data set {schema.name}: its time is not cut into periods; add `periods` to its recipe")
        for key, period, least in (("first", config.first, 1), ("tested", self.tested, config.first)):
            if not least <= period <= last:
                raise UserError(
                    f"method.{key}: {period}; a period from {least} to {last} is needed, of those numbered 0 to "
                    f"{last}: something must be learnt before it"
                )

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """`log_loss` of the rows and their negatives and, where it has a weight, `l2`."""
        user_BD, item_BD, negative_BD = found = [rows[f"{table}.{feature}"] for table, feature in self.looked_up]
        losses = {"log_loss": self.log_loss(user_BD, item_BD, negative_BD=negative_BD, batch=batch)}
        if self.config.l2:
            losses["l2"] = loss.l2(found, batch)
        return losses

    @property
    def looked_up(self) -> tuple[tuple[str, str], ...]:
        """(table, feature) of a row's user, item and negative."""
        return (("user", self.schema.user), ("item", self.schema.item), ("item", NEGATIVE))

    def log_loss(self, user_BD: Tensor, item_BD: Tensor, *, negative_BD: Tensor, batch: Batch) -> Tensor:
        """SML's equation 1 of these vectors."""
        positive_B, negative_B = ((user_BD * other_BD).sum(1) for other_BD in (item_BD, negative_BD))
        return loss.pairs(positive_B, negative_B, batch)

    def stages(self) -> tuple[Stage, ...]:
        """The start, and then period by period."""
        rest = (stage for period in range(self.config.first, self.schema.periods) for stage in self.learn(period))
        return (self.start(), *rest)

    def learn(self, period: int) -> tuple[Stage, ...]:
        """The stages that learn a period."""
        raise NotImplementedError

    def start(self) -> Stage:
        """The periods before `first`."""
        data = Slice(period=self.config.first - 1, upto=True, negatives=1)
        return self.stage("start", data, epochs=self.config.first_epochs)

    def met(self, period: int) -> Slice | None:
        """The period as something to measure the model on before it learns it, if it is one of those tested."""
        return Slice(period=period) if period >= self.tested else None

    def at_once(self, period: int, data: Slice) -> tuple[Stage]:
        """The one stage that learns a period, by this data, once the model has met it."""
        return (replace(self.stage(name_of(period), data, epochs=self.config.epochs), pretest=self.met(period)),)

    def stage(self, name: str, data: Slice, *, epochs: int) -> Stage:
        """A stretch of so many epochs that trains the two tables, without validation."""
        until, tables = Until(epochs=epochs, patience=0), ("user", "item")
        update = Sum(self.weights())
        return Stage(name=name, loss=self.losses, data=data, train=tables, read=tables, update=update, until=until)


def name_of(period: int) -> str:
    """A period in the name of a stage."""
    return f"period-{period:04d}"
