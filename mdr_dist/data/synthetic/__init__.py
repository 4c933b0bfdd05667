"""Data sets with a planted truth, so that a test knows the right answer and a benchmark reaches millions of users."""

from mdr_dist.data.synthetic.config import SyntheticConfig
from mdr_dist.data.synthetic.presets import configure
from mdr_dist.data.synthetic.write import synthesize

__all__ = ["SyntheticConfig", "configure", "synthesize"]
