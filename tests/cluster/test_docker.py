"""The Dockerfile: linted, and built from files that are there and that .dockerignore lets through."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from support.repository import CLUSTER, ROOT, text, tool

DOCKERFILE = CLUSTER / "docker" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """The instructions in order, continued lines joined: word and the rest."""
    whole = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in whole.splitlines() if line.strip())
    return [(word, " ".join(rest.split())) for word, rest in pairs]


def copied() -> list[str]:
    """What is copied out of the repository."""
    found = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    return [source for sources in found for source in sources]


def passes(path: str, rules: list[str]) -> bool:
    """Whether a file of the repository is let through: the last rule that fits it, or a folder above it, decides."""
    let = True
    for rule in rules:
        pattern = rule.removeprefix("!")
        above = [path, *map(str, Path(path).parents)][:-1]
        fits = any(fnmatch(part, pattern) or fnmatch(f"./{part}", pattern.replace("**/", "*/")) for part in above)
        let = rule.startswith("!") if fits else let
    return let


def rules() -> list[str]:
    return [line for line in text(".dockerignore").splitlines() if line and not line.startswith("#")]


def test_lint() -> None:
    subprocess.run([tool("hadolint"), DOCKERFILE], check=True)


def test_copies_what_is_there_and_not_ignored() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    for source in copied():
        below = [path for path in tracked if path == source or path.startswith(f"{source}/")]
        assert below, source
        assert [path for path in below if not passes(path, rules())] == []


@pytest.mark.parametrize(
    "path",
    [".git/config", ".venv/bin/python", "data/x/schema.json", "s3.env", "mdr_dist/__pycache__/cli.pyc", "tests/a"],
)
def test_everything_else_stays_out(path: str) -> None:
    assert not passes(path, rules())


def test_set_up_has_what_it_reads() -> None:
    (read,) = re.findall(r"cat - (.+) \|", text("tools", "setup.sh"))  # of what its answer depends on
    declared = set(re.findall(r'^(?:readme|license-files) = .*?"(.+?)"', text("pyproject.toml"), re.MULTILINE))
    assert {*read.split()} | declared <= set(copied())
    order = [(word, rest) for word, rest in instructions() if word in ("COPY", "RUN")]
    setup = next(place for place, (word, rest) in enumerate(order) if word == "RUN" and "tools/setup.sh" in rest)
    assert {"tools/setup.sh", "mdr_dist"} <= {part for _, rest in order[:setup] for part in rest.split()}


def test_python_is_one_that_the_project_supports() -> None:
    (base,) = (rest for word, rest in instructions() if word == "ARG" and rest.startswith("BASE="))
    found = re.fullmatch(r"BASE=python:(3)\.(\d+)\.(\d+)-slim-bookworm", base)
    assert found, base
    assert (int(found[1]), int(found[2])) >= (3, 11)


def test_both_devices_have_a_stage_and_none_is_root() -> None:
    stages = [rest for word, rest in instructions() if word == "FROM"]
    assert stages == ["${BASE} AS cpu", "${BASE} AS cuda", "${DEVICE}"]
    users = [rest for word, rest in instructions() if word == "USER"]
    assert users == ["1000"]
    assert any(word == "RUN" and "useradd --uid 1000 " in rest for word, rest in instructions())
