"""Fine-tuning: every period the model is trained on the data of that period alone.

Paper: the baseline Fine-tune of SML, "How to Retrain Recommender System? A Sequential Meta-Learning Method", SIGIR
2020: matrix factorisation with the log loss of SML's equation 1, started from the model of the period before.

What differs: optimizer state goes on from period to period, as that of SML does.

Shape letters: none.
"""

from __future__ import annotations

from pydantic import Field

from mdr_dist.methods.periodic import PeriodicConfig, PeriodicMethod
from mdr_dist.stage import Slice, Stage


class FineTuneConfig(PeriodicConfig):
    """Settings.

    epochs  passes over a period. Code
    """

    epochs: int = Field(default=5, ge=1)


class FineTune(PeriodicMethod):
    """A stage a period."""

    Config = FineTuneConfig

    def learn(self, period: int) -> tuple[Stage, ...]:
        """This period."""
        return self.at_once(period, Slice(period=period, negatives=1))
