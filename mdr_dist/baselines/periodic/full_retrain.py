"""Full retraining: every period the model is trained on all the data there is.

Paper: the baseline Full-retrain of SML, "How to Retrain Recommender System? A Sequential Meta-Learning Method", SIGIR
2020: matrix factorisation with the log loss of SML's equation 1, started from the model of the period before.

What differs: the public code lets 20 to 100 passes over everything stand for training to the end; `epochs` says how
many, and optimizer state goes on from period to period.

Shape letters: none.
"""

from __future__ import annotations

from pydantic import Field

from mdr_dist.methods.periodic import PeriodicConfig, PeriodicMethod
from mdr_dist.stage import Slice, Stage


class FullRetrainConfig(PeriodicConfig):
    """Settings.

    epochs  passes over all data, every period. Code: 100, of which a comment says that 20 are as good
    """

    epochs: int = Field(default=20, ge=1)


class FullRetrain(PeriodicMethod):
    """A stage a period, each over all data up to it."""

    Config = FullRetrainConfig

    def learn(self, period: int) -> tuple[Stage, ...]:
        """All periods up to this one."""
        return self.at_once(period, Slice(period=period, upto=True, negatives=1))
