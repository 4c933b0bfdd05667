"""What full ranking found for each user of a domain, its means, and the file that keeps it. Shapes: U users."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mdr_dist import storage
from mdr_dist.data.ragged import Ints
from mdr_dist.eval.metrics import macro, mean
from mdr_dist.eval.ties import Floats, expected_at_random

Figures = dict[str, float | int | None]


@dataclass(frozen=True, kw_only=True)
class UserFigures:
    """The users that have something to find.

    user_key [U], sorted; truths [U] how many candidates they took, of candidates [U]; metrics name → [U];
    skipped how many more users there are, without a truth to find; unrankable truths of all users that could not be
    found; items of the catalogue; duplicates: repeated rows of the split.
    """

    user_key: Ints
    truths: Ints
    candidates: Ints
    metrics: dict[str, Floats]
    skipped: int
    unrankable: int
    items: int
    duplicates: int

    @classmethod
    def merge(cls, parts: Sequence[UserFigures]) -> UserFigures:
        """The users of all parts, which are of one domain and share no user."""
        key = np.concatenate([part.user_key for part in parts])
        order = np.argsort(key)
        names = parts[0].metrics
        return cls(
            user_key=key[order],
            truths=np.concatenate([part.truths for part in parts])[order],
            candidates=np.concatenate([part.candidates for part in parts])[order],
            metrics={name: np.concatenate([part.metrics[name] for part in parts])[order] for name in names},
            skipped=sum(part.skipped for part in parts),
            unrankable=sum(part.unrankable for part in parts),
            items=parts[0].items,
            duplicates=parts[0].duplicates,
        )


def summary(figures: Mapping[str, UserFigures], ks: tuple[int, ...]) -> dict[str, Figures]:
    """Domain → its means and counts, as `ranking.rank` describes them, and `macro`, the mean over domains.

    A mean over no users is None and counts nowhere.
    """
    found = {name: _means(entry, ks) for name, entry in figures.items()}
    return {**found, "macro": macro(list(found.values()))}


def _means(entry: UserFigures, ks: tuple[int, ...]) -> Figures:
    random = expected_at_random(entry.truths, entry.candidates, ks=ks)
    terms = {**entry.metrics, **{f"random/{name}": values for name, values in random.items()}}
    means: Figures = {name: mean(values) if len(values) else None for name, values in terms.items()}
    counts = {"truths": int(entry.truths.sum()), "unrankable": entry.unrankable, "duplicates": entry.duplicates}
    return {**means, "users": len(entry.user_key), "skipped": entry.skipped, "items": entry.items, **counts}


def write_users(url: str, figures: Mapping[str, UserFigures]) -> None:
    """Keep every user's metrics as Parquet: `domain`, `user_key`, `truths`, `candidates` and a column a metric."""
    tables = [
        pa.table(
            {
                "domain": pa.array([name] * len(entry.user_key)).dictionary_encode(),
                "user_key": entry.user_key,
                "truths": entry.truths,
                "candidates": entry.candidates,
                **entry.metrics,
            }
        )
        for name, entry in figures.items()
    ]
    content = io.BytesIO()
    pq.write_table(pa.concat_tables(tables).unify_dictionaries(), content, compression="zstd")
    storage.write_bytes(url, content.getvalue())


def read_users(urls: Iterable[str]) -> pa.Table:
    """The rows of such files, which share no domain, with `domain` as text."""
    tables = [pq.read_table(io.BytesIO(storage.read_bytes(url))) for url in urls]
    return pa.concat_tables([each.set_column(0, "domain", each["domain"].cast(pa.string())) for each in tables])
