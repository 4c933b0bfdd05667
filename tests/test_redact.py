"""Planted secrets: none comes through, wherever something is written or printed; other text stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from mdr_dist.errors import UserError
from mdr_dist.events import Events
from mdr_dist.redact import redacted, secret_in
from mdr_dist.train.attempt import write_error
from support.command import mdr, refused
from support.jobs import small_job

SECRET = 'pl4nted/"secret"+ü=='


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "MY_TOKEN", "db_password", "CLIENT_SECRET", "SSH_PASSPHRASE"],
)
def test_values_of_variables_in_every_way_to_write_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, SECRET)
    text = f"<{SECRET}> {json.dumps({'a': SECRET})} {{'a': {SECRET!r}}} https://host/?x={quote(SECRET, safe='')}&y=1"
    assert redacted(text) == "<***> {\"a\": \"***\"} {'a': '***'} https://host/?x=***&y=1"
    assert secret_in(f"a {SECRET} b") == f"the value of ${name}"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("s3://key:secret@bucket/runs: no such file", "s3://***@bucket/runs: no such file"),
        ("(http://user@host:80/a@b)", "(http://***@host:80/a@b)"),
        ("https://h/k?X-Amz-Signature=abc&b=1&X-Amz-Credential=d/e", "https://h/k?X-Amz-Signature=***&b=1&X-Amz-Credential=***"),
        ("https://h/k?a=1&sig=abc%2F", "https://h/k?a=1&sig=***"),
        ("Authorization: Bearer abcdefgh.ij", "Authorization: Bearer ***"),
    ],
)  # fmt: skip
def test_credentials_of_urls(text: str, left: str) -> None:
    assert redacted(text) == left == redacted(left)
    assert secret_in(text) == "credentials of a URL" and secret_in(left) == ""


def test_a_secret_that_holds_another_goes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "abcdefgh")
    monkeypatch.setenv("B_TOKEN", "abcdefgh-and-more")
    assert redacted("abcdefgh-and-more, abcdefgh") == "***, ***"


@pytest.mark.parametrize(
    ("name", "value"),
    [("MY_KEY", "tiny"), ("KEYS", "long enough"), ("KEYBOARD", "long enough"), ("KEY_ONE", "long enough")],
)
def test_what_is_no_secret_stays(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    text = f"{value} user@host run@2 s3://bucket/a@b https://host/?x=1 data/ciao: 3 * 4 ** 5"
    assert redacted(text) == text and secret_in(text) == ""


def test_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    Events(str(tmp_path)).write({"kind": "note", "text": f"it was {SECRET}"})
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == "it was ***"


def test_what_a_worker_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    try:
        raise FloatingPointError(f"not finite: {SECRET}")
    except FloatingPointError as error:
        write_error(str(tmp_path), error, lane="main")
    left = json.loads((tmp_path / "error.json").read_text())
    assert left["error"] == "not finite: ***" and "FloatingPointError: not finite: ***" in left["traceback"]
    assert SECRET not in str(left)


@pytest.fixture
def job(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.chdir(tmp_path)
    value = small_job("shared_bottom", dataset, train={"epochs": 1}, data={"batch": 512}).model_dump(mode="json")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(value))
    return tmp_path / "job.yaml"


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("error", [ValueError, FloatingPointError, UserError, "before there is a run"])
def test_errors_of_a_run(
    error: type[Exception] | str, job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the run's folder, in what `mdr status` tells of it, and in what was printed."""
    kind = ValueError if isinstance(error, str) else error

    def fail(*_: object, **__: object) -> None:
        raise kind(f"refused: {SECRET} of s3://key:{quote(SECRET, safe='')}@bucket")

    place = "mdr_dist.config.load_job" if isinstance(error, str) else "mdr_dist.train.trainer.train_step"
    monkeypatch.setattr(place, fail)
    code = mdr(monkeypatch, "train", job, "--runs", "runs")
    shown = capsys.readouterr()
    assert code == (2 if error is UserError else 1)
    assert "refused: *** of s3://***@bucket" in shown.err
    if not isinstance(error, str):
        assert mdr(monkeypatch, "status", job.parent / "runs/shared_bottom-test", "--json") == 0
        told = capsys.readouterr().out
        assert "refused: ***" in told
        assert b"refused: *** of s3://***@bucket" in files(job.parent / "runs")
        assert SECRET not in told and SECRET.encode() not in files(job.parent / "runs")
    for text in (shown.out, shown.err):
        assert SECRET not in text and quote(SECRET, safe="") not in text


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (("--set", "data.path=/x/{}"), "the value of $MY_TOKEN"),
        (("--set", "data.path=http://me:{}@host/data"), "the value of $MY_TOKEN"),
        (("--set", "launch.storage=s3://me:other-word@bucket"), "credentials of a URL"),
    ],
)
def test_a_job_that_holds_a_secret_is_refused(
    setting: tuple[str, str], says: str, job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is written: a `job.yaml` without it would be another job."""
    monkeypatch.setenv("MY_TOKEN", "a-planted-token")
    monkeypatch.setattr("mdr_dist.launch.process.check", lambda _: None)  # there is no such data set
    flag, text = setting
    said = refused(monkeypatch, capsys, "train", job, "--runs", "runs", flag, text.format("a-planted-token"))
    assert f"job shared_bottom-test: it holds {says}; take it out: credentials come from the environment" in said
    assert "planted" not in said and "other-word" not in said
    assert not (job.parent / "runs").exists()
