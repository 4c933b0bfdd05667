"""Makes a data set of either kind."""

from __future__ import annotations

from typing import Any

from mdr_dist.data.layout import NewDataset
from mdr_dist.data.synthetic.config import ImplicitConfig
from mdr_dist.data.synthetic.implicit import Implicit
from mdr_dist.data.synthetic.labelled import Labelled
from mdr_dist.data.synthetic.planted import Config


def synthesize(out: str, config: Config) -> dict[str, Any]:
    """Make the data set `out` (a folder or `s3://` URL that must be empty) and return its report.

    The report, also kept as `report.json`, holds `config`; `domains`, by name; `overlap` [K, K]: users seen in both
    domains; `users_in_several`: their share of all users seen; and what `Labelled` and `Implicit` say.
    """
    new = NewDataset(out)
    writing = Implicit(new, config) if isinstance(config, ImplicitConfig) else Labelled(new, config)
    with new:
        for domain in range(len(writing.domains)):
            writing.add(domain)
        schema, report = writing.schema(), writing.report()
        new.commit(schema, writing.shards, report)
    return report
