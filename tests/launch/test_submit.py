"""What is asked of a cluster and what its answers mean, of a server that only answers; integration/ has a real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import ray

from mdr_dist.errors import Fault, UserError
from mdr_dist.launch import submit
from mdr_dist.launch.submit import Attempt, Cluster, exit_code, exposure, passed, reason
from support.cluster import free_ports
from support.command import refused
from support.jobs import small_job

VERSION = {"version": "4", "ray_version": ray.__version__, "ray_commit": "x", "session_name": "x"}


class Head:
    """A server that gives fixed answers, and remembers what was asked.

    `answers`: method and path, or one of them → (status, JSON or text); `then`: method → what happens meanwhile.
    """

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {"/api/version": (200, VERSION), "/api/jobs/": (200, [])}
        self.asked: list[str] = []
        self.then: dict[str, Callable[[], None]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append(f"{self.command} {self.path}")
                asked = (f"{self.command} {self.path}", self.path, self.command)
                found = next((outer.answers[key] for key in asked if key in outer.answers), (404, "no"))
                outer.then.get(self.command, lambda: None)()
                body = (found[1] if isinstance(found[1], str) else json.dumps(found[1])).encode()
                self.send_response(found[0])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = answer  # noqa: N815 (the base class's names)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def has(self, *jobs: tuple[str, str]) -> None:
        """The jobs there are: (submission id, status)."""
        self.answers["/api/jobs/"] = (200, [details(id_, status) for id_, status in jobs])


def details(id_: str, status: str) -> dict[str, Any]:
    code = {"SUCCEEDED": 0, "FAILED": 2}.get(status)
    times = {"start_time": 1000, "end_time": None if status in ("PENDING", "RUNNING") else 2500}
    return {
        "type": "SUBMISSION",
        "submission_id": id_,
        "status": status,
        "entrypoint": "x",
        "driver_exit_code": code,
        **times,
    }


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


def test_a_cluster_that_fails_is_a_fault(head: Head) -> None:
    cluster = Cluster(head.address)
    head.answers["/api/jobs/"] = (500, "Traceback\nbroken")
    with pytest.raises(Fault, match=rf"^{head.address}: Request failed with status code 500: Traceback broken\.$"):
        cluster.attempts()


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
