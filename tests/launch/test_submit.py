"""What is asked of a cluster and what its answers mean, of a server that only answers; integration/ has a real one."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from mdr_dist.errors import Fault, UserError
from mdr_dist.launch import submit
from mdr_dist.launch.submit import Attempt, Cluster, exit_code, exposure, passed, reason
from support.cluster import free_ports
from support.command import mdr, refused
from support.head import VERSION, Head
from support.jobs import small_job


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    head = Head()
    thread = threading.Thread(target=head.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield head
    head.server.shutdown()
    head.server.server_close()
    thread.join()


def test_attempts_of_runs_by_number_among_other_jobs(head: Head) -> None:
    head.has(("a@10", "RUNNING"), ("raysubmit_x", "RUNNING"), ("a@9", "STOPPED"), ("a-1@1", "FAILED"), ("@3", "FAILED"))
    cluster = Cluster(head.address + "/")
    assert [(each.id, each.state) for each in cluster.attempts()] == [
        ("a@9", "stopped"),
        ("a@10", "running"),
        ("a-1@1", "failed"),
    ]
    assert [each.number for each in cluster.attempts("a")] == [9, 10]
    assert cluster.find("a").id == "a@10" and cluster.find("a@9").id == "a@9" and cluster.find("a-1").code == 2
    assert (cluster.find("a@9").started, cluster.find("a@9").ended, cluster.find("a").ended) == (1.0, 2.5, None)
    with pytest.raises(UserError, match=r"no run 'b' was submitted to .*; those that were: a, a-1$"):
        cluster.find("b")


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_run_that_is_not_over_is_not_submitted_again(status: str, head: Head) -> None:
    head.has(("smf-test@1", "FAILED"), ("smf-test@2", status))
    says = rf"smf-test is {submit.STATES[submit.JobStatus(status)]} on .* as smf-test@2; follow it \(mdr submit logs"
    with pytest.raises(UserError, match=says):
        Cluster(head.address).submit(small_job("smf", "data"), variables={})
    assert not [line for line in head.asked if not line.startswith("GET")]


def test_somebody_else_was_quicker(head: Head) -> None:
    """Between our look at what runs and the end of our upload."""
    head.answers["POST /api/jobs/"] = (400, "Job with submission_id smf-test@1 already exists.")
    head.answers["PUT"] = (200, {})
    head.then["PUT"] = lambda: head.has(("smf-test@1", "RUNNING"))
    with pytest.raises(UserError, match=r"smf-test is running on .* as smf-test@1"):
        Cluster(head.address).submit(small_job("smf", "data"), variables={})
    assert [line for line in head.asked if not line.startswith("GET")][1:] == ["POST /api/jobs/"]


def test_what_is_sent_and_what_is_said_of_it(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Credentials go into the job's environment, and are told by name alone."""
    for name in submit.CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    monkeypatch.setenv("MORE", "planted-value")
    job = small_job("smf", "s3://bucket/data", launch={"storage": "s3://bucket/runs"})
    (tmp_path / "job.yaml").write_text(json.dumps(job.model_dump(mode="json")))
    head.answers |= {"PUT": (200, {}), "POST /api/jobs/": (200, {"job_id": "x", "submission_id": "x"})}
    head.then["POST"] = lambda: head.has(("smf-test@1", "PENDING"))
    arguments = ("--address", head.address, "--env", "MORE", "--no-follow")
    assert mdr(monkeypatch, "submit", tmp_path / "job.yaml", *arguments) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.splitlines() == [
        f"submitted: smf-test@1 to {head.address}  (run: s3://bucket/runs/smf-test)",
        "passed, and to be read by whoever reaches the cluster's dashboard: AWS_SECRET_ACCESS_KEY, MORE",
        f"follow it: mdr submit logs --follow smf-test --address {head.address}",
    ]
    posted = json.loads(head.sent["POST"])
    variables = posted["runtime_env"]["env_vars"]
    assert {name: variables[name] for name in variables if not name.startswith("RAY_")} == {
        "AWS_SECRET_ACCESS_KEY": "planted-secret",
        "MORE": "planted-value",
    }
    assert posted["submission_id"] == "smf-test@1" and "planted" not in posted["entrypoint"]
    assert b"planted-" not in zipped(head.sent["PUT"])


def zipped(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())


@pytest.mark.parametrize(
    ("calls", "told"),
    [
        ([["one\ntwo\n", "three\n"]], ["one", "two", "three"]),
        ([["one\ntw", "o\nthr", "ee"]], ["one", "two", "three"]),
        ([["one\ntwo\n", RuntimeError("lost")], ["one\ntwo\nthree\n"]], ["one", "two", "three"]),
        ([["one\n"], ["one\ntwo\n"]], ["one", "two"]),  # closed while the job went on
        ([["one\nt"], ["one\ntwo"]], ["one", "two"]),
        ([["a plant", "ed-secret\n"]], ["a ***"]),
    ],
)
def test_a_log_is_told_once_by_whole_lines(
    calls: list[list[str | Exception]], told: list[str], head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "planted-secret")
    monkeypatch.setattr(submit.time, "sleep", lambda _: None)
    left, lines = iter(calls), list[str]()
    cluster = Cluster(head.address)

    async def tail(_: str) -> AsyncIterator[str]:
        chunks = next(left)
        head.has(("a@1", "RUNNING" if chunks is not calls[-1] else "FAILED"))
        for chunk in chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    monkeypatch.setattr(cluster._client, "tail_job_logs", tail)
    assert cluster.follow(ended("running", None), lines.append).code == 2
    assert lines == told


def test_a_cluster_that_is_lost_while_it_is_followed(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(submit.time, "sleep", slept.append)
    cluster = Cluster(head.address)
    head.answers.clear()
    with pytest.raises(Fault, match=rf"{head.address} does not answer any more: .*; the job may go on there"):
        cluster.follow(ended("running", None), print)
    assert len(slept) == submit._TRIES - 1


def test_a_cluster_that_fails_is_a_fault(
    head: Head, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(head.address)
    head.answers["/api/jobs/"] = (500, "Traceback\nbroken")
    with pytest.raises(Fault, match=rf"^{head.address}: Request failed with status code 500: Traceback broken\.$"):
        cluster.attempts()
    head.answers["/api/jobs/"] = (500, "of s3://key:planted@bucket")
    assert mdr(monkeypatch, "submit", "status", "--address", head.address) == 1
    said = f"mdr: fault: {head.address}: Request failed with status code 500: of s3://***@bucket.\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((200, VERSION | {"ray_version": "2.9.0"}), rf"Ray 2\.9\.0 is there, {ray.__version__} here; install the same"),
        ((404, "nothing here"), r"no Ray cluster's dashboard answers there"),
        ((200, "<html>"), r"no Ray cluster's dashboard answers there"),
        ((200, []), r"no Ray cluster's dashboard answers there"),
        ((200, {}), r"no Ray cluster's dashboard answers there"),
    ],
)
def test_what_is_at_the_address(answer: tuple[int, Any], says: str, head: Head) -> None:
    head.answers["/api/version"] = answer
    with pytest.raises(UserError, match=rf"--address {head.address}: {says}"):
        Cluster(head.address)


def test_a_cluster_that_asks_for_a_token(head: Head) -> None:
    for path in ("/api/jobs/", "/api/version"):
        for status in (401, 403):
            head.answers[path] = (status, "no")
            with pytest.raises(UserError, match=r"asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN"):
                Cluster(head.address).attempts()


def test_nothing_at_the_address(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    for address in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid:8265"):
        said = refused(monkeypatch, capsys, "submit", "status", "--address", address) if "127" in address else ""
        assert not said or f"--address {address}: no Ray cluster's dashboard answers there; is it http" in said
        with pytest.raises(UserError, match=r"no Ray cluster's dashboard answers there"):
            Cluster(address)
    for address in ("127.0.0.1:6379", "ray://127.0.0.1:10001", "auto"):
        with pytest.raises(UserError, match=r"write it as http://HEAD:8265"):
            Cluster(address)


def test_the_address_that_was_said_goes_before_the_environment(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray has it the other way round."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        assert Cluster(head.address).attempts() == []
        assert submit.os.environ[name] == "http://127.0.0.1:1"


def ended(state: str, code: int | None, message: str = "") -> Attempt:
    return Attempt("a@1", "a", 1, state=state, started=1.0, ended=2.0, code=code, message=message)


def test_exit_codes() -> None:
    cases = {("finished", 0): 0, ("failed", 2): 2, ("failed", 1): 1, ("failed", 143): 143, ("stopped", None): 143}
    cases |= {("failed", None): 1, ("failed", -9): 1, ("failed", 256): 1}
    assert {case: exit_code(ended(*case)) for case in cases} == cases


def test_reasons_that_a_log_does_not_have() -> None:
    assert reason(ended("failed", 2, "failed with exit code 2")) == ""
    assert reason(ended("failed", None, "no runtime environment")) == "no runtime environment"
    assert "no `python` in its PATH" in reason(ended("failed", 127))
    assert reason(ended("stopped", None, "stopped")) == "" == reason(ended("finished", 0))


def test_variables_that_go_with_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*submit.CREDENTIALS, "AWS_PROFILE", "OTHER"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "OTHER"):
        monkeypatch.setenv(name, f"value of {name}")
    local = small_job("smf", "/data", launch={"storage": "/runs"})
    remote = [small_job("smf", "s3://b/data", launch={"storage": "/runs"})]
    remote += [small_job("smf", "/data", launch={"storage": "s3://b/runs"})]
    assert passed(local, ()) == {} and passed(local, ("OTHER",)) == {"OTHER": "value of OTHER"}
    for job in remote:
        assert set(passed(job, ("OTHER",))) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "OTHER"}
        assert passed(job, (), credentials=False) == {}
    with pytest.raises(UserError, match=r"--env NOWHERE: no such variable"):
        passed(local, ("OTHER", "NOWHERE"))


@pytest.mark.parametrize(
    ("address", "mode", "warns"),
    [
        ("http://10.0.0.1:8265", "", True),
        ("http://10.0.0.1:8265", "disabled", True),
        ("http://10.0.0.1:8265", "token", False),
        ("http://head:8265", "", True),
        ("https://head:8265", "", False),
        ("http://127.0.0.1:8265", "", False),
        ("http://127.8.0.1:8265", "", False),
        ("http://[::1]:8265", "", False),
        ("http://localhost:8265", "", False),
        ("http://localhost.example.org:8265", "", True),
    ],
)
def test_who_else_may_listen(address: str, mode: str, warns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    assert exposure(address).startswith(f"{address} is plain HTTP without a token: ") == warns
    assert bool(exposure(address)) == warns
