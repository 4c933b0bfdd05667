"""How rows are encoded, as `encode.py` and the modules of single kinds of features put it together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mdr_dist.data.prepare.grow import Earlier
from mdr_dist.schema import Feature


@dataclass
class Encoding:
    """What gives the ids their meaning, and the SQL of each column: `joins`, by feature, look up what `columns` use.

    `earlier` is the data set that this one grows from.
    """

    earlier: Earlier | None = None
    features: list[Feature] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    report: dict[str, dict[str, Any]] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    joins: dict[int, str] = field(default_factory=dict)
