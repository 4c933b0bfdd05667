"""The same for a local folder and for a file system behind a URL."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mdr_dist import storage
from mdr_dist.errors import UserError


def test_join_keeps_the_url(root: str) -> None:
    assert storage.join(root, "a", "b.json") == f"{root}/a/b.json"
    assert storage.join(root + "/", "a") == f"{root}/a"
    assert storage.is_local(storage.join(root, "a")) == ("://" not in root)


def test_what_is_written_is_read_and_listed(root: str) -> None:
    for name in ("b/two", "b/one", "a"):
        storage.write_bytes(storage.join(root, name), name.encode())
    assert storage.read_bytes(f"{root}/b/two") == b"b/two"
    storage.write_bytes(f"{root}/b/two", b"again")
    assert storage.read_bytes(f"{root}/b/two") == b"again"
    assert storage.names(root) == ["a", "b"]
    assert storage.names(f"{root}/b") == ["one", "two"]
    assert storage.files(root) == {"a": 1, "b/one": 5, "b/two": 5}
    assert storage.files(f"{root}/b") == {"one": 5, "two": 5}
    assert storage.files(f"{root}/none") == {}
    assert storage.names(f"{root}/none") == storage.names(f"{root}/a") == []
    assert [storage.exists(f"{root}/{name}") for name in ("a", "b", "b/one", "c", "b/three")] == [
        True, True, True, False, False
    ]  # fmt: skip


def test_removed_files_and_folders_are_gone(root: str) -> None:
    storage.write_bytes(f"{root}/b/one", b"")
    storage.write_bytes(f"{root}/b/c/two", b"")
    storage.remove(f"{root}/none")
    storage.remove(f"{root}/b/one")
    assert storage.names(f"{root}/b") == ["c"]
    storage.remove(f"{root}/b")
    assert storage.files(root) == {}
    storage.check_free(root)
    assert not storage.exists(f"{root}/b/c/two")


def test_a_created_file_is_there_when_it_is_committed(root: str) -> None:
    data = os.urandom(1 << 20)
    file = storage.create(f"{root}/a/b")
    file.write(data[:7])
    file.write(data[7:])
    if root.startswith("s3://"):
        assert storage.files(root) == {}
    assert storage.commit(file) == len(data)
    assert storage.read_bytes(f"{root}/a/b") == data


def test_json(root: str) -> None:
    storage.write_json(f"{root}/value.json", {"a": [1, None, "é"]})
    assert storage.read_json(f"{root}/value.json") == {"a": [1, None, "é"]}


@pytest.mark.parametrize("data", [b"{", b"", b"\xff\xfe\x00"])
def test_what_is_no_json_is_named(root: str, data: bytes) -> None:
    storage.write_bytes(f"{root}/value.json", data)
    with pytest.raises(UserError, match=rf"^{root}/value\.json: not valid JSON .*$"):
        storage.read_json(f"{root}/value.json")


def test_a_file_that_is_not_there_is_named(root: str) -> None:
    with pytest.raises(UserError, match=rf"^{root}/none: no such file$"):
        storage.read_bytes(f"{root}/none")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{tmp_path}: a folder, not a file$"):
        storage.read_bytes(str(tmp_path))


def test_an_unknown_url_is_named() -> None:
    with pytest.raises(UserError, match=r"nowhere://x: no file system for this URL.*use a local path or s3://"):
        storage.exists("nowhere://x")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    storage.write_bytes(str(path), b"old")
    seen: list[list[str]] = []

    def full(_: int) -> None:
        seen.append(sorted(os.listdir(tmp_path)))
        assert path.read_bytes() == b"old"  # the new bytes lie aside
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        storage.write_bytes(str(path), b"new")
    assert len(seen[0]) == 2 and seen[0][1].endswith(".part")
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_a_new_folder_needs_a_free_place(root: str) -> None:
    storage.check_free(f"{root}/new")
    storage.write_bytes(f"{root}/full/file", b"")
    with pytest.raises(UserError, match=rf"^{root}/full: the folder is not empty; name a new one or remove it$"):
        storage.check_free(f"{root}/full")
    with pytest.raises(UserError, match=rf"^{root}/full/file: a file is there; name a new folder$"):
        storage.check_free(f"{root}/full/file")


@pytest.mark.parametrize("there", [False, True])
def test_a_finished_folder_takes_its_name(there: bool, tmp_path: Path) -> None:
    aside, out = tmp_path / "out.part", tmp_path / "out"
    storage.write_bytes(str(aside / "a" / "file"), b"x")
    if there:
        out.mkdir()
    storage.move(str(aside), str(out))
    assert os.listdir(tmp_path) == ["out"]
    assert (out / "a" / "file").read_bytes() == b"x"
