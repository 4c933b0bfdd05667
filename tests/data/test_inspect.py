"""The summary of a data set, and each kind of damage told by its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mdr_dist.data.inspect import inspect
from mdr_dist.data.layout import FILES, SCHEMA, NewDataset, ShardWriter, arrow_schema
from mdr_dist.errors import UserError
from mdr_dist.schema import Feature, Schema

FEATURES = (
    Feature(name="user", kind="id", rows=50, vocabulary="user"),
    Feature(name="item", kind="id", rows=60, scope="domain", starts=(0, 30), vocabulary="item"),
    Feature(name="domain", kind="id", rows=2, vocabulary="domain"),
)


def make(out: Path) -> dict[tuple[str, str], np.ndarray]:
    """A small data set; its labels by domain and split."""
    rng = np.random.default_rng(0)
    schema = Schema(name="tiny", domains=("a", "b"), features=FEATURES)
    columns, labels, shards, rows = arrow_schema(schema), {}, [], {}
    with NewDataset(str(out)) as dataset:
        for domain, split, n in (("a", "train", 90), ("a", "test", 10), ("b", "train", 40), ("b", "test", 5)):
            label = rng.integers(2, size=n).astype(np.float32)
            labels[domain, split] = label
            rows.setdefault(split, {})[domain] = n
            user, item = rng.integers(50, size=n), rng.integers(30, size=n)
            writer = ShardWriter(dataset.root, columns, domain=domain, split=split)
            writer.write(pa.table({"user": user, "item": item, "label": label, "user_key": user}))
            shards += writer.close()
        dataset.commit(schema.model_copy(update={"rows": rows}), shards, {})
    return labels


def test_the_summary(tmp_path):
    labels = make(tmp_path / "data")
    found = inspect(str(tmp_path / "data"))
    assert found["name"] == "tiny" and found["rows"] == 145 and found["shards"] == 4 and len(found["fingerprint"]) == 64
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "data").rglob("*.parquet"))
    for (domain, split), label in labels.items():
        assert found["domains"][domain]["rows"][split] == len(label)
        assert found["domains"][domain]["label_mean"][split]["label"] == pytest.approx(label.mean())
    assert found["features"][1] == {
        "name": "item",
        "kind": "id",
        "rows": 60,
        "width": 1,
        "scope": "domain",
        "vocabulary": "item",
    }


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


SHARD = "domain=a/split=train/part-00000.parquet"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda root: (root / SHARD).unlink(), f"{SHARD}: this shard is missing"),
        (lambda root: (root / SHARD).write_bytes((root / SHARD).read_bytes()[:-9]), f"{SHARD}: .* cut short"),
        (lambda root: (root / SHARD).write_bytes(b"0" * (root / SHARD).stat().st_size), f"{SHARD}: not a readable"),
        (lambda root: edit(root / FILES, lambda f: f["files"][1].update(rows=91)), "row groups of"),
        (lambda root: edit(root / FILES, lambda f: f["files"].pop()), "do not add up"),
        (lambda root: edit(root / SCHEMA, lambda s: s["rows"]["test"].update(b=6)), "do not add up"),
        (lambda root: edit(root / SCHEMA, lambda s: s.update(labels=["click"])), "are not those of schema.json"),
        (lambda root: edit(root / FILES, lambda f: f["files"][0].update(domain="c")), "domain 'c' is not in data set"),
        (lambda root: (root / SCHEMA).unlink(), "not a data set"),
        (lambda root: (root / FILES).unlink(), f"{FILES}: no such file"),
    ],
)
def test_damage_is_told(tmp_path, damage, told):
    make(tmp_path / "data")
    damage(tmp_path / "data")
    with pytest.raises(UserError, match=told) as caught:
        inspect(str(tmp_path / "data"))
    assert "\n" not in str(caught.value)
