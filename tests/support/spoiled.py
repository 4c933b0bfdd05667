"""Ways to spoil one thing of a workspace: its `job.yaml`, recipe, data set `set`, run or export `out`."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

Spoil = Callable[[Path], object]
LOG = "user,item,domain,rating\n" + "".join(
    f"u{u},{d}{i},{d},{1 + (u + i) % 5}\n" for d in ("a", "b") for u in range(12) for i in range(u, u + 6)
)
RECIPE: dict[str, Any] = {
    "log": [
        {
            "files": ["log.csv"],
            "format": "csv",
            "columns": {"user": "text", "item": "text", "domain": "text", "rating": "float"},
        }
    ],
    "labels": {"label": "rating >= 4"},
    "domain": {"column": "domain"},
    "features": [{"name": "user"}, {"name": "item", "of": "item"}],
    "split": {"random": {"val": 0.1, "test": 0.2}},
}


def raw(text: str | bytes) -> Spoil:
    """The job is this text."""
    content = text if isinstance(text, bytes) else text.encode()
    return lambda root: (root / "job.yaml").write_bytes(content)


def job(**sections: Any) -> Spoil:
    """The job with sections laid over; `...` takes one away."""

    def spoil(root: Path) -> None:
        value = yaml.safe_load((root / "job.yaml").read_text())
        for name, section in sections.items():
            old = value.get(name)
            value[name] = {**old, **section} if isinstance(old, dict) and isinstance(section, dict) else section
        left = {name: section for name, section in value.items() if section is not ...}
        (root / "job.yaml").write_text(yaml.safe_dump(left))

    return spoil


def recipe(**parts: Any) -> Spoil:
    def spoil(root: Path) -> None:
        (root / "jobs/tiny/prepare.yaml").write_text(yaml.safe_dump({**RECIPE, **parts}))

    return spoil


def manifest(name: str, change: Callable[[Any], Any]) -> Spoil:
    """A JSON file of the workspace changed."""

    def spoil(root: Path) -> None:
        path = root / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return spoil


def cut(name: str, *, to: float = 0.5) -> Spoil:
    """A file, by pattern, cut short."""

    def spoil(root: Path) -> None:
        path = sorted(root.glob(name))[0]
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * to)])

    return spoil


def noise(name: str) -> Spoil:
    """A file's bytes replaced by as many random ones."""

    def spoil(root: Path) -> None:
        path = sorted(root.glob(name))[0]
        path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))

    return spoil


def shard(change: Callable[[pa.Table], pa.Table]) -> Spoil:
    """The first training shard rewritten; the index follows, so that only its rows are wrong."""

    def spoil(root: Path) -> None:
        index = json.loads((root / "set/files.json").read_text())
        entry = next(file for file in index["files"] if file["split"] == "train")
        path = root / "set" / entry["path"]
        pq.write_table(change(pq.read_table(path)), path)
        entry["bytes"] = path.stat().st_size
        (root / "set/files.json").write_text(json.dumps(index))

    return spoil


def column(name: str, values: Callable[[Any], Any]) -> Spoil:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index(name), name, values(table[name]))

    return shard(change)


def first(values: Any, value: Any) -> pa.Array:
    """The column with another first value."""
    return pa.array([value, *values.to_pylist()[1:]], type=values.type)


class Owned:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def owned_metadata(root: Path) -> None:
    (path,) = root.glob("runs/*/lanes/main/checkpoints/*/.metadata")
    path.write_bytes(pickle.dumps(Owned(root / "owned")))
    (path.parent / "DONE").write_bytes(b"")  # no sums that would have told


def shard_paths(index: dict[str, Any], path: str) -> dict[str, Any]:
    index["files"][0]["path"] = path
    return index


def first_entry(index: dict[str, Any], **values: Any) -> dict[str, Any]:
    index["files"][0].update(values)
    return index


def with_feature(schema: dict[str, Any], **values: Any) -> dict[str, Any]:
    schema["features"][0].update(values)
    return schema
