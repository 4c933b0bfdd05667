"""What `prepare` draws by hashes, worked anew with hashlib."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pandas as pd


def uniform(*parts: object) -> float:
    """A number in [0, 1): the last 8 bytes of an MD5, little-endian."""
    digest = hashlib.md5("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[8:], "little") / 2**64


def roles(frame: pd.DataFrame, rule: Mapping[str, float], *, domain: str, seed: int = 0) -> dict[str, str]:
    """What a cold-start split makes of each `user` of a frame: val, test, common, uncommon, or other."""
    found: dict[str, str] = {}
    for user, there in frame.groupby("user")["domain"].unique().items():
        if domain not in there or len(there) == 1:
            found[str(user)] = "other"
        elif uniform(seed, "cold", user) < rule.get("users", 0.5):
            found[str(user)] = "val" if uniform(seed, "cold val", user) < rule.get("val", 0.4) else "test"
        else:
            found[str(user)] = "common" if uniform(seed, "common", user) < rule.get("common", 1.0) else "uncommon"
    return found
