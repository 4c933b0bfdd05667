"""Data sets with a planted truth, so that a test knows the right answer and a benchmark reaches millions of users."""

from mdr_dist.data.synthetic.config import DriftConfig, ImplicitConfig, SyntheticConfig
from mdr_dist.data.synthetic.make import synthesize
from mdr_dist.data.synthetic.presets import configure
from mdr_dist.data.synthetic.review_config import ReviewConfig

__all__ = ["DriftConfig", "ImplicitConfig", "ReviewConfig", "SyntheticConfig", "configure", "synthesize"]
