"""Keeps secrets out of what is written and printed.

A secret is the value of an environment variable whose name says so, as it is or as JSON, Python or a URL would write
it, and what a URL holds of credentials: user and password before the host, signatures and tokens behind it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from urllib.parse import quote

HIDDEN = "***"
SHORTEST = 8  # letters; a shorter value may be a word of any text, and is no secret worth the name
_NAMES = re.compile(r"(KEY|KEY_ID|SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE)$", re.IGNORECASE)
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE)
_QUERY = re.compile(
    r"([?&](?:x-amz-(?:signature|credential|security-token)|awsaccesskeyid|signature|sig|token|access_token)=)"
    r"(?!\*\*\*)[^&\s'\"]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(\bbearer\s+)(?!\*\*\*)[\w.~+/=-]{8,}", re.IGNORECASE)


def redacted(text: str) -> str:
    """The text with every secret in it replaced by `***`."""
    for _, value in _secrets():
        text = text.replace(value, HIDDEN)
    text = _USER.sub(rf"\1{HIDDEN}@", text)
    return _BEARER.sub(rf"\1{HIDDEN}", _QUERY.sub(rf"\1{HIDDEN}", text))


def secret_in(text: str) -> str:
    """Which secret the text holds, in words without it; empty if none."""
    for name, value in _secrets():
        if value in text:
            return f"the value of ${name}"
    return "credentials of a URL" if redacted(text) != text else ""


def _secrets() -> Iterator[tuple[str, str]]:
    """(variable, its value in one of the ways to write it), longest first: none is part of one that comes later."""
    found: set[tuple[str, str]] = set()
    for name, value in os.environ.items():
        if _NAMES.search(name) and len(value.strip()) >= SHORTEST:
            written = (value, value.strip(), json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, safe=""))
            found |= {(name, each) for each in written}
    yield from sorted(found, key=lambda pair: (-len(pair[1]), pair))
