"""What `prepare` tells of a data set: counts, label means, who is in several domains, and how skewed it is."""

from __future__ import annotations

from typing import Any

import duckdb

from mdr_dist.data.prepare import engine
from mdr_dist.data.prepare.sections import SPLITS


def row_counts(connection: duckdb.DuckDBPyConnection, domains: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Rows, negatives included, by split and domain; splits that no domain has are left out."""
    counts: dict[str, dict[str, int]] = {}
    for s, d, rows in connection.execute("SELECT _s, _d, count(*) FROM rows GROUP BY ALL ORDER BY ALL").fetchall():
        counts.setdefault(SPLITS[s], dict.fromkeys(domains, 0))[domains[d]] = rows
    return counts


def describe(connection: duckdb.DuckDBPyConnection, domains: tuple[str, ...], labels: list[str]) -> dict[str, Any]:
    """Per domain: users, items, rows and label means by split; overlap of users and items; skew. Negatives are left
    out, but for the counts and label means of rows as they are written."""
    per_domain: dict[str, dict[str, Any]] = {domain: {"rows": {}, "label_mean": {}} for domain in domains}
    means = ", ".join(f"avg(l{place})" for place in range(len(labels)))
    for d, s, rows, *values in connection.execute(
        f"SELECT _d, _s, count(*), {means} FROM rows GROUP BY _d, _s ORDER BY _d, _s"
    ).fetchall():
        entry = per_domain[domains[d]]
        entry["rows"][SPLITS[s]] = rows
        entry["label_mean"][SPLITS[s]] = {
            label: float(f"{value:.6g}") for label, value in zip(labels, values, strict=True)
        }
    report: dict[str, Any] = {"domains": per_domain}
    for word, column in (("user", "_user"), ("item", "_item")):
        matrix = _overlap(connection, domains, column)
        report[f"{word}_overlap"] = matrix
        for domain in domains:
            per_domain[domain][f"{word}s"] = matrix[domain][domain]
        report[f"{word}s"] = engine.one(connection, f"SELECT count(DISTINCT {column}) FROM rows WHERE _n = 0")
    report["skew"] = {"user": _skew(connection, "_user"), "item": _skew(connection, "_item")}
    return report


def _overlap(connection: duckdb.DuckDBPyConnection, domains: tuple[str, ...], column: str) -> dict[str, dict[str, int]]:
    """How many users (items) two domains share; on the diagonal, how many a domain has."""
    matrix = {domain: dict.fromkeys(domains, 0) for domain in domains}
    pairs = f"(SELECT DISTINCT _d, {column} AS x FROM rows WHERE _n = 0)"
    for a, b, n in connection.execute(
        f"SELECT a._d, b._d, count(*) FROM {pairs} a JOIN {pairs} b ON a.x = b.x GROUP BY ALL"
    ).fetchall():
        matrix[domains[a]][domains[b]] = n
    return matrix


def _skew(connection: duckdb.DuckDBPyConnection, column: str) -> dict[str, float]:
    """The share of the rows that the busiest 1 % (rounded up) hold, and the Gini coefficient of rows."""
    counts = f"(SELECT {column}, count(*) AS n FROM rows WHERE _n = 0 GROUP BY 1)"
    ranked = f"(SELECT n, row_number() OVER (ORDER BY n) AS rank FROM {counts})"
    total, size, weighted = connection.execute(f"SELECT sum(n), count(*), sum(n * rank) FROM {ranked}").fetchall()[0]
    top = engine.one(connection, f"SELECT sum(n) FROM {ranked} WHERE rank > {size} - ceil(0.01 * {size})")
    gini = 2 * float(weighted) / (size * float(total)) - (size + 1) / size
    return {"top_1_percent": float(f"{float(top) / float(total):.6g}"), "gini": float(f"{gini:.6g}")}
