"""What s3:// does when the store fails, is slow, or refuses: a real store, and moto behind faults made to order."""

from __future__ import annotations

import datetime
import multiprocessing
import os
from collections.abc import Iterator

import botocore.auth
import pytest
from botocore.retries.standard import ExponentialBackoff
from seaweedfs import SECRET, Store, make_bucket

from mdr_dist import object_store, storage
from mdr_dist.errors import UserError
from support.object_store import Failing, counted, failing, use

DATA = bytes(range(256)) * 400
CALLS = (storage.exists, storage.names, storage.files, storage.read_bytes, lambda url: storage.write_bytes(url, b""))


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Failing, Store]]:
    with failing() as found:
        yield found


@pytest.fixture
def faults(servers: tuple[Failing, Store], monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
    """A store that fails as it is told; waits between attempts are cut short. It holds `s3://faulty/data`."""
    app, store = servers
    use(monkeypatch, {**store.environment, "AWS_MAX_ATTEMPTS": "4"})
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.02)
    monkeypatch.setattr(object_store, "LONGEST_WAIT", 0.05)
    make_bucket("faulty")
    storage.write_bytes("s3://faulty/data", DATA)
    app.seen.clear()
    yield app
    assert not app.due, "a fault was not met"


def test_a_store_that_is_busy_is_asked_again(faults: Failing) -> None:
    faults.due += [("GET /faulty/data", "503 SlowDown")] * 2 + [("GET /faulty/data", "500 InternalError")]
    assert storage.read_bytes("s3://faulty/data") == DATA
    assert faults.seen.count("GET /faulty/data") == 4
    faults.due += [("PUT /faulty/new", "503 SlowDown")] * 3
    storage.write_bytes("s3://faulty/new", DATA)
    faults.due += [("GET /faulty", "503 SlowDown")] * 3
    assert list(storage.files("s3://faulty")) == ["data", "new"]


def test_a_store_that_stays_busy_is_named(faults: Failing) -> None:
    faults.due += [("GET /faulty/data", "503 SlowDown")] * 4
    with pytest.raises(
        UserError,
        match=r"^s3://faulty/data: http://127.* answers 503 \(SlowDown\) to the last of 4 attempts; try again",
    ):
        storage.read_bytes("s3://faulty/data")


def test_waits_between_attempts_grow_and_are_random(faults: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, float]] = []
    monkeypatch.setattr(object_store, "LONGEST_WAIT", 20)
    monkeypatch.setattr(object_store.random, "uniform", lambda low, high: drawn.append((low, high)) or 0.0)
    faults.due += [("GET /faulty/data", "truncated")] * 3
    assert storage.read_bytes("s3://faulty/data") == DATA
    assert drawn == [(0, 1), (0, 2), (0, 4)]


def test_a_body_that_breaks_off_is_read_on(faults: Failing) -> None:
    faults.due += [("GET /faulty/data", "truncated")] * 2
    fs, path = storage.filesystem("s3://faulty/data")
    assert storage.read_bytes("s3://faulty/data") == DATA
    faults.due += [("GET /faulty/data", "truncated")]
    assert fs.cat_file(path, start=100, end=90_000) == DATA[100:90_000]
    faults.due += [("GET /faulty/data", "truncated")]
    with fs.open(path, "rb", block_size=10_000, cache_type="readahead") as file:
        file.seek(50_000)
        assert file.read(30_000) == DATA[50_000:80_000]


def test_a_large_object_that_breaks_off_is_read_on_where_it_broke(
    faults: Failing, monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    data = os.urandom(1 << 20)
    storage.write_bytes("s3://faulty/large", data)
    fs, path = storage.filesystem("s3://faulty/large")
    for part in (1 << 18, 1 << 22):  # in four pieces at once, and as one stream
        monkeypatch.setattr(fs, "default_block_size", part)
        faults.due += [("GET /faulty/large", "truncated")] * 2
        fs.get_file(path, f"{tmp_path}/{part}")
        with open(f"{tmp_path}/{part}", "rb") as file:
            assert file.read() == data
    # half of it was there, then half of the rest
    assert faults.seen[-2:] == [f"GET /faulty/large bytes={at}-" for at in (1 << 19, 3 << 18)]


def test_a_body_that_always_breaks_off_is_named(faults: Failing) -> None:
    faults.due += [("GET /faulty/data", "truncated")] * 4
    with pytest.raises(UserError, match=r"^s3://faulty/data: breaks off again and again \(.+\); try again$"):
        storage.read_bytes("s3://faulty/data")


def test_a_slow_answer_is_asked_for_again(faults: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "READ_SECONDS", 0.5)
    object_store.ObjectStore.clear_instance_cache()
    faults.seconds = 1.5
    faults.due += [("GET /faulty/data", "slow")]
    assert storage.read_bytes("s3://faulty/data") == DATA
    assert faults.seen.count("GET /faulty/data") == 2
    faults.due += [("GET /faulty/data", "slow")] * 4
    with pytest.raises(UserError, match=r"^s3://faulty/data: no answer from http://127.*try again when it is up"):
        storage.read_bytes("s3://faulty/data")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ExpiredToken", r"says that the credentials have expired; get new ones, AWS_SESSION_TOKEN included$"),
        ("RequestTimeTooSkewed", r"this machine's clock and that of .* differ too much; set this machine's"),
        ("InvalidToken", r"refuses the token in AWS_SESSION_TOKEN"),
        ("AccessDenied", r"denies access; these credentials need the right"),
        ("AllAccessDisabled", r"denies all access to this bucket"),
    ],
)
def test_what_the_store_refuses_is_told_apart(faults: Failing, code: str, message: str) -> None:
    """Also where it refuses a HEAD, whose answer has no text: it is asked once more in another way."""
    faults.due += [("GET /faulty/data", f"400 {code}")]
    with pytest.raises(UserError, match=rf"^s3://faulty/data: .*{message}"):
        storage.read_bytes("s3://faulty/data")
    for status, times in (("403 Forbidden", 1), ("400 Bad", 2)):  # after 400 botocore looks where the bucket is, and
        faults.due += [("HEAD /faulty/data", status)] * times  # asks again
        faults.due += [("GET /faulty", f"400 {code}")]
        with pytest.raises(UserError, match=rf"^s3://faulty/data: .*{message}"):
            storage.exists("s3://faulty/data")


# a real store


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            r"no answer from http://127.0.0.1:9 \(.*\); correct AWS_ENDPOINT_URL",
        ),
        ({"AWS_ENDPOINT_URL": "nonsense"}, "Invalid endpoint: nonsense; look at the AWS_ variables"),
        ({"AWS_ACCESS_KEY_ID": "other"}, "does not know the key in AWS_ACCESS_KEY_ID; correct the credentials"),
        ({"AWS_SECRET_ACCESS_KEY": "guess-77"}, "the secret does not fit the key; correct AWS_SECRET_ACCESS_KEY"),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "no credentials; set AWS_ACCESS_KEY_ID and AWS_",
        ),
    ],
)
def test_a_wrong_setting_is_named(
    s3: str, environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, {"AWS_MAX_ATTEMPTS": "1", **environment})
    for call in CALLS:
        with pytest.raises(UserError, match=rf"^s3://tests/.*{message}") as raised:
            call(f"{s3}/file")
        assert SECRET not in str(raised.value) and "guess-77" not in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1


def test_a_bucket_that_is_not_there_is_named(s3: str) -> None:
    for call in CALLS:
        with pytest.raises(UserError, match=r"^s3://none/file: there is no bucket 'none' at http://127"):
            call("s3://none/file")
    with pytest.raises(UserError, match=r"^s3://no bucket/file: no bucket can have that name"):
        storage.read_bytes("s3://no bucket/file")
    storage.make_folder("s3://none/folder")  # makes nothing, above all no bucket
    with pytest.raises(UserError, match="there is no bucket 'none'"):
        storage.check_free("s3://none/folder")


@pytest.mark.parametrize("minutes", [-60, -14, 14, 60])
def test_a_clock_that_is_off_is_named(s3: str, minutes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By more than a quarter of an hour, either way; what the store says of its own time corrects nothing."""
    storage.write_bytes(f"{s3}/file", b"")
    now = botocore.auth.get_current_datetime
    with monkeypatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: now() + datetime.timedelta(minutes=minutes))
        for call in (*CALLS, *CALLS):
            if abs(minutes) < 15:
                call(f"{s3}/file")
                continue
            with pytest.raises(UserError, match=r"^s3://tests/.*: this machine's clock and that of http.* differ too"):
                call(f"{s3}/file")


def test_an_address_of_no_store_is_named(servers: tuple[Failing, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    app, store = servers
    use(monkeypatch, store.environment)
    for fault in ("404 NotFound", "405 MethodNotAllowed"):
        app.due += [("HEAD /tests/file", "404 NotFound"), ("GET /tests", fault)]
        with pytest.raises(UserError, match=r"^s3://tests/file: http://127.* does not answer as an S3 store does"):
            storage.exists("s3://tests/file")


def test_a_large_object_goes_up_in_parts(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, path = storage.filesystem(f"{s3}/large")
    monkeypatch.setattr(fs, "default_block_size", 5 << 20)
    data = os.urandom(12 << 20)
    with counted(monkeypatch) as asked:
        file = storage.create(f"{s3}/large")
        for start in range(0, len(data), 1 << 20):
            file.write(data[start : start + (1 << 20)])
        assert storage.files(s3) == {}
        storage.commit(file)
    assert sum(line.startswith("upload_part ") for line in asked) == 3
    assert fs.cat_file(path) == data


def test_a_listing_is_never_an_old_one(s3: str) -> None:
    storage.write_bytes(f"{s3}/a/one", b"1")
    assert storage.names(f"{s3}/a") == ["one"] and storage.files(s3) == {"a/one": 1}
    elsewhere = object_store.ObjectStore(skip_instance_cache=True)  # as another process would
    elsewhere.pipe_file(f"{s3}/a/two", b"22")
    assert storage.names(f"{s3}/a") == ["one", "two"] and storage.files(s3) == {"a/one": 1, "a/two": 2}
    elsewhere.pipe_file(f"{s3}/a/one", b"333")
    assert storage.files(s3)["a/one"] == 3 and storage.read_bytes(f"{s3}/a/one") == b"333"


def _read_in_child(url: str, environment: dict[str, str]) -> bytes:
    os.environ.update(environment)  # a server that forks may be older than this
    return storage.read_bytes(url)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_processes_read_it_too(s3: str, method: str) -> None:
    storage.write_bytes(f"{s3}/file", DATA)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_read_in_child, (f"{s3}/file", dict(os.environ))) == DATA
    assert storage.read_bytes(f"{s3}/file") == DATA


def test_a_forked_process_reads_it_too(s3: str) -> None:
    storage.write_bytes(f"{s3}/file", DATA)
    if not (child := os.fork()):
        try:
            os._exit(0 if storage.read_bytes(f"{s3}/file") == DATA else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
