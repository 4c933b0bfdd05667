"""Moments as recipes and reports write them."""

from __future__ import annotations

from datetime import UTC, datetime

from mdr_dist.errors import UserError


def moment(date: str, what: str) -> int:
    """Unix seconds of an ISO date or time, UTC unless it says otherwise."""
    try:
        parsed = datetime.fromisoformat(date)
    except ValueError as error:
        raise UserError(f"{what}: {date!r} is not a date such as 2019-12-31 or 2019-12-31T23:59:59") from error
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())


def date(seconds: int) -> str:
    """Unix seconds as a date and time that `periods.starts` takes."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
