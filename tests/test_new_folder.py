"""New folders: whole or not there, on a disk and where nothing can be renamed, whoever was killed meanwhile."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest

from mdr_dist import storage
from mdr_dist.errors import UserError
from mdr_dist.new_folder import MARK, NewFolder


def test_a_folder_is_there_after_commit(root: str) -> None:
    with NewFolder(f"{root}/out/") as new:
        storage.write_bytes(storage.join(new.root, "a", "b"), b"1")
        new.commit()
    assert storage.files(root) == {"out/a/b": 1}
    with pytest.raises(UserError, match=rf"^{root}/out/?: the folder is not empty; name a new one or remove it$"):
        NewFolder(f"{root}/out")
    assert storage.files(root) == {"out/a/b": 1}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, None])
def test_without_commit_nothing_is_left(root: str, error: Any) -> None:
    def broken() -> None:
        with NewFolder(f"{root}/out") as new:
            storage.write_bytes(storage.join(new.root, "a", "b"), b"1")
            if error:
                raise error

    if error:
        with pytest.raises(error):
            broken()
    else:
        broken()
    assert storage.files(root) == {}


PROGRAM = """
import sys, time
from mdr_dist import storage
from mdr_dist.new_folder import NewFolder
with NewFolder(sys.argv[1]) as new:
    storage.write_bytes(storage.join(new.root, "a"), b"12")
    print("written", flush=True)
    time.sleep(60)
"""


def test_a_killed_command_is_in_nobodys_way_and_one_at_work_is(s3: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, f"{s3}/out"], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "written\n"
        with pytest.raises(UserError, match=rf"^{s3}/out: process {other.pid} writes there; wait for it, or name"):
            NewFolder(f"{s3}/out")
        assert storage.files(f"{s3}/out").keys() == {MARK, "a"}
        other.send_signal(signal.SIGKILL)
    assert storage.files(f"{s3}/out").keys() == {MARK, "a"}
    with NewFolder(f"{s3}/out") as new:
        storage.write_bytes(f"{new.root}/b", b"1")
        new.commit()
    assert storage.files(f"{s3}/out") == {"b": 1}


@pytest.mark.parametrize("change", [{"host": "another"}, {"started": "1"}])
def test_of_two_machines_the_first_cannot_commit(s3: str, change: dict[str, str]) -> None:
    first = NewFolder(f"{s3}/out").__enter__()
    mark = storage.read_json(f"{s3}/out/{MARK}")
    assert (mark["host"], mark["process"]) == (socket.gethostname(), os.getpid())
    storage.write_bytes(f"{s3}/out/a", b"12")
    second = NewFolder(f"{s3}/out").__enter__()
    storage.write_bytes(f"{s3}/out/b", b"1")
    storage.write_json(f"{s3}/out/{MARK}", mark | change)
    with pytest.raises(UserError, match=rf"^{s3}/out: another command writes there; name another folder$"):
        first.commit()
    first.__exit__()
    assert storage.files(f"{s3}/out").keys() == {MARK, "b"}, "the first removed what is not its own"
    assert second.root == f"{s3}/out"


def test_a_process_that_ended_but_is_not_yet_forgotten_does_not_run(s3: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, f"{s3}/out"], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline()
        other.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
        NewFolder(f"{s3}/out")
