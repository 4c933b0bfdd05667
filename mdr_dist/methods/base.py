"""The contract every method fulfils.

Shape letters: B rows, D width, R users, N items.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mdr_dist.batch import Batch, Extras
from mdr_dist.schema import Schema
from mdr_dist.stage import Losses, Rows, Stage, TableSpec


class MethodConfig(BaseModel):
    """A method's settings: frozen, unknown keys refused. Each field states its unit and its default's source."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Method(nn.Module):
    """One paper: the tables it looks up, the scores it gives, the losses and stages it trains by.

    It knows no device, file, process group or optimizer. All state that must survive is a parameter or a buffer.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    task: ClassVar[Literal["rank", "retrieve", "rate"]] = "rank"  # what evaluation measures
    extras: Extras = Extras()  # what its batches bring beside the data set's features; the config may decide

    def __init__(self, config: MethodConfig, schema: Schema) -> None:
        super().__init__()
        self.config, self.schema = config, schema

    def tables(self) -> tuple[TableSpec, ...]:
        """The embedding tables."""
        raise NotImplementedError

    def pretrained(self) -> dict[str, str]:
        """Table or dense parameter [rows, D] → the vocabulary whose vectors, if the data set has any, it starts from.

        Rows of keys that have no vector start as declared.
        """
        return {}

    def score(self, rows: Rows, batch: Batch) -> Tensor:
        """[B] what ranks; for `task="rank"` the logit of the label, for `task="rate"` the rating."""
        raise NotImplementedError

    def user_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] of a method with `task="retrieve"`: what each row's user seeks in the row's domain."""
        raise NotImplementedError

    def item_vector(self, rows: Rows, batch: Batch) -> Tensor:
        """[B, D] of a method with `task="retrieve"`: each row's item in the row's domain.

        A user's and an item's vector say how the item ranks for the user (`pair_scores`). Each depends on its own row
        alone; the other side's features in that row are another row's, those of drawn negatives the item's own.
        """
        raise NotImplementedError

    def pair_scores(self, user_RD: Tensor, item_ND: Tensor, *, domain: int) -> Tensor:  # noqa: ARG002 for overrides
        """[…, R, N] every user's score of every item of a domain, by their vectors; leading dimensions are alike.

        Their inner product, unless a method that retrieves overrides it: vectors are then what it makes scores of, a
        user's and an item's of any widths. It agrees with `score`, and holds little more than [R, N] at a time.
        """
        return user_RD @ item_ND.mT

    @property
    def inner_product(self) -> bool:
        """Whether inner products of vectors rank, as an index of vectors needs it: `pair_scores` is not overridden."""
        return type(self).pair_scores is Method.pair_scores

    def losses(self, rows: Rows, batch: Batch) -> Losses:
        """Named scalars, never their sum; each averages over processes to its value on the global batch."""
        raise NotImplementedError

    def stages(self) -> tuple[Stage, ...]:
        """The schedule; one joint stage unless the paper says otherwise."""
        return (Stage(name="joint", loss=self.losses),)
