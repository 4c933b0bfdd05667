"""Malformed jobs, recipes, manifests, shards, checkpoints and exports: a clear line, exit code 2, nothing left behind.

Each case spoils one thing of a whole workspace in which the command would have worked.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdr_dist.config import Job, overlaid
from mdr_dist.data.synthetic import configure, synthesize
from mdr_dist.errors import UserError
from support.command import mdr
from support.jobs import small_job
from support.spoiled import (
    LOG,
    RECIPE,
    Spoil,
    column,
    cut,
    first,
    first_entry,
    job,
    manifest,
    noise,
    owned_metadata,
    raw,
    recipe,
    shard,
    shard_paths,
    with_feature,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace: data set `set`, `job.yaml`, a run `runs/<name>`, an export `out`, raw files and a recipe."""
    root = tmp_path_factory.mktemp("whole")
    synthesize(str(root / "set"), configure("tiny", ("domains=2", "rows=600")))
    small = small_job("shared_bottom", str(root / "set"), train={"epochs": 1})
    (root / "job.yaml").write_text(yaml.safe_dump(small.model_dump(mode="json")))
    with pytest.MonkeyPatch.context() as patch:
        assert mdr(patch, "train", root / "job.yaml", "--runs", root / "runs", "--quiet") == 0
        assert mdr(patch, "export", root / "runs" / small.name, root / "out") == 0
    (root / "raw").mkdir()
    (root / "raw" / "log.csv").write_text(LOG)
    (root / "jobs" / "tiny").mkdir(parents=True)
    (root / "jobs" / "tiny" / "prepare.yaml").write_text(yaml.safe_dump(RECIPE))
    return root


@pytest.fixture
def work(whole: Path, tmp_path: Path) -> Path:
    """A copy of the workspace to spoil, the job pointing into it."""
    root = tmp_path / "work"
    shutil.copytree(whole, root)
    for name in ("job.yaml", "runs/shared_bottom-test/job.yaml"):
        text = (root / name).read_text()
        (root / name).write_text(text.replace(str(whole), str(root)))
    return root


RUN = "runs/shared_bottom-test"
NEW = ("--set", "name=new")
TRAIN = ("train", "job.yaml", "--runs", "runs", *NEW)
PREPARE = ("prepare", "jobs/tiny/prepare.yaml", "made", "--raw", "raw")
CASES: list[tuple[str, Spoil, tuple[str, ...], str]] = [
    ("empty job", raw(""), TRAIN, "expected a YAML mapping"),
    ("no YAML", raw("name: [a"), TRAIN, "not valid YAML"),
    ("a tab", raw("name: a\n\tdata: b"), TRAIN, "not valid YAML"),
    ("a list", raw("- name: a"), TRAIN, "expected a YAML mapping"),
    ("a number", raw("42"), TRAIN, "expected a YAML mapping"),
    ("no text", raw(bytes(range(128, 256))), TRAIN, "not valid YAML"),
    ("a null byte", raw("name: a\0b"), TRAIN, "not valid YAML"),
    ("code by a tag", raw("name: !!python/object/apply:os.mkdir [owned]"), TRAIN, "not valid YAML"),
    ("itself", raw("data: &a {path: *a}\nname: x\nmethod: {name: smf}"), TRAIN, "data.path"),
    ("number keys", job(**{"1": 2}), TRAIN, "1"),
    ("no data", job(data=...), TRAIN, "data: "),
    ("no method", job(method=...), TRAIN, "method: "),
    ("an unknown section", job(trian={"epochs": 1}), TRAIN, "trian"),
    ("an unknown key", job(train={"epoch": 1}), TRAIN, "train.epoch"),
    ("a section of text", job(train="long"), TRAIN, "train: "),
    ("no section", job(train=None), TRAIN, "train: "),
    ("method by text", job(method="smf"), TRAIN, "method: "),
    ("method without a name", job(method={"name": None}), TRAIN, "method: "),
    ("an unknown method", job(method={"name": "gpt"}), TRAIN, "no method named 'gpt'"),
    ("an unknown setting", job(method={"layers": 3}), TRAIN, "layers"),
    ("batch 0", job(data={"batch": 0}), TRAIN, "data.batch"),
    ("batch many", job(data={"batch": "many"}), TRAIN, "data.batch"),
    ("a share of an epoch", job(train={"epochs": 1.5}), TRAIN, "train.epochs"),
    ("lr below 0", job(tables={"lr": -1}), TRAIN, "tables.lr"),
    ("lr not a number", job(dense={"lr": float("nan")}), TRAIN, "dense.lr"),
    ("lr without end", job(dense={"lr": float("inf")}), TRAIN, "dense.lr"),
    ("seed below 0", job(train={"seed": -1}), TRAIN, "train.seed"),
    ("no ks", job(eval={"ks": []}), TRAIN, "eval.ks"),
    ("k 0", job(eval={"ks": [0]}), TRAIN, "eval.ks"),
    ("workers below 0", job(launch={"workers": -1}), TRAIN, "launch.workers"),
    ("a name that leads out", job(name="../up"), ("train", "job.yaml", "--runs", "runs"), "name: "),
    ("a name of nothing", job(name=""), ("train", "job.yaml", "--runs", "runs"), "name: "),
    ("a name that is no text", job(name=["a"]), ("train", "job.yaml", "--runs", "runs"), "name: "),
    ("a name without end", job(name="a" * 5000), ("train", "job.yaml", "--runs", "runs"), "name: "),
    ("unknown placement", job(tables={"placement": "everywhere"}), TRAIN, "tables.placement"),
    ("unknown optimizer", job(dense={"optimizer": "magic"}), TRAIN, "dense.optimizer"),
    ("streams that do not divide", job(data={"streams": 7}), TRAIN, "data.streams: 7 does not divide"),
    ("an unknown domain", job(data={"domains": ["films"]}), TRAIN, "domain 'films' is not in data set"),
    ("no such data set", job(data={"path": "nowhere"}), TRAIN, "not a data set"),
    ("a data set that is a file", job(data={"path": "job.yaml"}), TRAIN, "job.yaml"),
    ("an unknown kind of URL", job(data={"path": "gopher://a/b"}), TRAIN, "no file system for this URL"),
    ("an unknown metric", job(train={"monitor": "magic", "patience": 1}), TRAIN, "train.monitor"),
    ("a setting without a value", raw("name: x"), (*TRAIN, "--set", "train.epochs"), "write it as key.path=value"),
    ("a setting into text", job(), (*TRAIN, "--set", "name.x=1"), "--set name.x=1"),
    ("a job that is a folder", lambda root: (root / "runs/job").mkdir(), ("train", "runs"), "a folder, not a file"),
    ("runs that are a file", job(), ("train", "job.yaml", "--runs", "job.yaml"), "job.yaml"),
    ("half a schema", cut("set/schema.json"), TRAIN, "not valid JSON"),
    ("a list for a schema", manifest("set/schema.json", lambda _: []), TRAIN, "not a schema of this version"),
    ("no domains", manifest("set/schema.json", lambda s: {**s, "domains": []}), TRAIN, "schema.json"),
    ("rows below 0", manifest("set/schema.json", lambda s: with_feature(s, rows=-5)), TRAIN, "schema.json"),
    ("an unknown kind", manifest("set/schema.json", lambda s: with_feature(s, kind="magic")), TRAIN, "schema.json"),
    ("half an index", cut("set/files.json"), TRAIN, "not valid JSON"),
    ("a list for an index", manifest("set/files.json", lambda _: []), TRAIN, "not an index of shards"),
    ("an index of numbers", manifest("set/files.json", lambda _: {"files": [1]}), TRAIN, "not an index of shards"),
    ("a path out", manifest("set/files.json", lambda s: shard_paths(s, "../../x.parquet")), TRAIN, "leads out of"),
    ("an absolute path", manifest("set/files.json", lambda s: shard_paths(s, "/etc/passwd")), TRAIN, "leads out of"),
    ("rows that are text", manifest("set/files.json", lambda s: first_entry(s, rows="x")), TRAIN, "not an index"),
    (
        "row groups below 0",
        manifest("set/files.json", lambda s: first_entry(s, row_groups=[-1])),
        TRAIN,
        "not an index",
    ),
    ("half a shard", cut("set/*/split=train/*.parquet"), TRAIN, "truncated or replaced"),
    ("a shard of noise", noise("set/*/split=train/*.parquet"), TRAIN, "cannot be read"),
    ("no shard", lambda root: sorted(root.glob("set/*/split=train/*.parquet"))[0].unlink(), TRAIN, "the file is gone"),
    ("a missing column", shard(lambda t: t.drop_columns(["label"])), TRAIN, "no column label"),
    ("another type", column("label", lambda c: c.cast(pa.float64())), TRAIN, "column label is double"),
    ("an empty value", column("label", lambda c: first(c, None)), TRAIN, "1 empty values"),
    ("a label that is no number", column("label", lambda c: first(c, float("nan"))), TRAIN, "must be finite"),
    ("an id too large", column("user", lambda c: first(c, 2**30)), TRAIN, "is not in [0, "),
    ("an id below 0", column("user", lambda c: first(c, -1)), TRAIN, "is not in [0, "),
    ("a key below 0", column("user_key", lambda c: first(c, -7)), TRAIN, "number the users from 0"),
    ("a recipe's unknown key", recipe(lables={}), PREPARE, "lables"),
    ("an unknown format", recipe(log=[{**RECIPE["log"][0], "format": "xls"}]), PREPARE, "format"),
    ("no raw file", recipe(log=[{**RECIPE["log"][0], "files": ["no.csv"]}]), PREPARE, "no.csv"),
    ("no SQL", recipe(labels={"label": "rating >="}), PREPARE, "rating >="),
    ("a column that is not there", recipe(labels={"label": "stars > 3"}), PREPARE, "stars"),
    ("SQL that reads a file", recipe(derive={"x": "(SELECT content FROM read_text('/etc/passwd'))"}), PREPARE, "read_"),
    ("SQL of two statements", recipe(derive={"x": "1); COPY (SELECT 1) TO 'owned'; SELECT (1"}), PREPARE, "derive"),
    ("a pattern that is none", recipe(log=[{**RECIPE["log"][0], "pattern": "("}]), PREPARE, "pattern"),
    ("shares over 1", recipe(split={"random": {"val": 0.9, "test": 0.9}}), PREPARE, "split"),
    ("half a line", lambda root: (root / "raw/log.csv").write_bytes(b"\xff\xfe\0\0"), PREPARE, "log.csv"),
    ("an empty log", lambda root: (root / "raw/log.csv").write_text("user,item,domain,rating\n"), PREPARE, "no rows"),
    ("dense state cut short", cut(f"{RUN}/lanes/main/checkpoints/*/dense.safetensors"), ("evaluate", RUN), "damaged"),
    ("tables cut short", cut(f"{RUN}/lanes/main/checkpoints/*/*.distcp"), ("evaluate", RUN), "000"),
    ("metadata of noise", noise(f"{RUN}/lanes/main/checkpoints/*/.metadata"), ("evaluate", RUN), "000"),
    ("code for metadata", owned_metadata, ("evaluate", RUN), "000"),
    ("half a progress", cut(f"{RUN}/lanes/main/checkpoints/*/progress.json"), ("evaluate", RUN), "damaged"),
    ("half a seal", cut(f"{RUN}/lanes/main/checkpoints/*/DONE"), ("evaluate", RUN), "not valid JSON"),
    ("tables of noise", noise(f"{RUN}/lanes/main/checkpoints/*/*.distcp"), ("evaluate", RUN), "damaged"),
    (
        "another schema",
        manifest("set/schema.json", lambda s: {**s, "name": "x"}),
        ("evaluate", RUN, "--split", "no"),
        "no",
    ),
    ("half an export", cut("out/manifest.json"), ("evaluate", "out"), "not valid JSON"),
    ("an export's tables cut short", cut("out/*.safetensors"), ("evaluate", "out"), "out/"),
    ("not a run", job(), ("status", "set"), "not a run"),
    ("not a data set", job(), ("inspect", "runs"), "not a data set"),
]


@pytest.mark.parametrize(("spoil", "command", "says"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_malformed(
    spoil: Spoil, command: tuple[str, ...], says: str, work: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(work)
    spoil(work)
    before = files(work)
    code = mdr(monkeypatch, *command)
    said = capsys.readouterr().err
    assert code == 2, said
    (line,) = said.strip().splitlines()
    assert line.startswith("mdr: error: ") and says in line, line
    assert "Traceback" not in said and "pydantic" not in said
    left = {name for name in files(work) - before if not name.startswith("runs/new")}  # why it failed
    assert not left
    assert not (work / "owned").exists()


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
KEYS = [f"{name}.{key}" for name, part in Job.model_fields.items() if hasattr(part.annotation, "model_fields")
        for key in part.annotation.model_fields]  # type: ignore[union-attr]  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.dictionaries(st.sampled_from([*KEYS, "name", "method", "data", "train", "tables"]), VALUES, max_size=3)
)
def test_whatever_stands_in_a_job(changes: dict[str, Any]) -> None:
    """A job with any values anywhere is a job, or refused in one line that says where."""
    value: dict[str, Any] = {"name": "x", "data": {"path": "d"}, "method": {"name": "smf"}}
    for key, new in changes.items():
        section, dot, name = key.partition(".")
        if dot and isinstance(value.setdefault(section, {}), dict):
            value[section][name] = new
        else:
            value[section] = new
    try:
        found = overlaid(Job, value, settings=(), where="job.yaml")
    except UserError as error:
        said = str(error)
        assert "\n" not in said and said.startswith("job.yaml: ")
    else:
        assert Job.model_validate(found.model_dump(mode="json")) == found


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_whatever_a_setting_says(text: str) -> None:
    try:
        overlaid(
            Job, {"name": "x", "data": {"path": "d"}, "method": {"name": "smf"}}, settings=(text,), where="job.yaml"
        )
    except UserError as error:
        assert "\n" not in str(error)
