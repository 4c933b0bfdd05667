"""Makes a data set of any kind."""

from __future__ import annotations

from typing import Any

from mdr_dist.data.layout import NewDataset
from mdr_dist.data.synthetic.config import DriftConfig, ImplicitConfig, SyntheticConfig
from mdr_dist.data.synthetic.drifting import Drifting
from mdr_dist.data.synthetic.implicit import Implicit
from mdr_dist.data.synthetic.labelled import Labelled
from mdr_dist.data.synthetic.planted import Config
from mdr_dist.data.synthetic.review_config import ReviewConfig
from mdr_dist.data.synthetic.reviewing import Reviewing
from mdr_dist.data.synthetic.write import Writing


def synthesize(out: str, config: Config) -> dict[str, Any]:
    """Make the data set `out` (a folder or `s3://` URL that must be empty) and return its report.

    The report, also kept as `report.json`, holds `config`; `domains`, by name; `overlap` [K, K]: users seen in both
    domains; `users_in_several`: their share of all users seen; and what `Labelled`, `Implicit`, `Drifting` or
    `Reviewing` says.
    """
    new = NewDataset(out)
    writing = _writing(new, config)
    with new:
        for domain in range(len(writing.domains)):
            writing.add(domain)
        schema, report = writing.schema(), writing.report()
        new.commit(schema, writing.shards, report)
    return report


def _writing(new: NewDataset, config: Config) -> Writing:
    match config:
        case ImplicitConfig():
            return Implicit(new, config)
        case DriftConfig():
            return Drifting(new, config)
        case ReviewConfig():
            return Reviewing(new, config)
        case SyntheticConfig():
            return Labelled(new, config)
