"""What must hold in all files of cluster/ at once: names, versions, commands that exist, no secrets, nothing open."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from mdr_dist import __version__
from mdr_dist.cli import app
from mdr_dist.config import Job
from support.kuberay import cluster_of, templates
from support.repository import CLUSTER, ROOT, commands, manifest, text

FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
IDS = [str(path.relative_to(CLUSTER)) for path in FILES]
README = text("cluster", "README.md")
PARSER: Any = typer.main.get_command(app)
SECRETS = {
    "an AWS key": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a value": r"(?i)\b(AWS_ACCESS_KEY_ID|AWS_SECRET_ACCESS_KEY|RAY_AUTH_TOKEN|password)['\"]?\s*[:=]\s*(?!\"?\$\()\S",
    "a long one": r"\b(?=\w*\d)(?=\w*[a-z])(?=\w*[A-Z])\w{32,}\b",
}


def parse(words: list[str]) -> None:
    """Parse the words after `mdr`; click's UsageError where a command, option or argument is not one."""
    name, command, rest = "mdr", PARSER, words
    while hasattr(command, "resolve_command"):
        context = command.make_context(name, list(rest))
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, list(rest))


def told() -> list[list[str]]:
    """Every `mdr …` that the files tell people or clusters to run, as words after `mdr`."""
    lines = commands(README) + re.findall(r"`(mdr \w+ [^`]+)`", README) + [manifest("rayjob")["spec"]["entrypoint"]]
    split = [re.sub(r"^([A-Z_]+=\S+ )+", "", line) for line in lines]
    return [shlex.split(line)[1:] for line in split if line.startswith("mdr ")]


@pytest.mark.parametrize("words", told(), ids=" ".join)
def test_command_exists(words: list[str]) -> None:
    if words[0] not in PARSER.commands:
        assert words[0] == "submit"
        pytest.skip("there is no `mdr submit` yet")
    parse(words)


@pytest.mark.parametrize(
    "line", ["trian job.yaml", "train job.yaml --worker 2", "train", "train a.yaml b.yaml", "plan j --device tpu"]
)
def test_command_that_is_none_is_noticed(line: str) -> None:
    with pytest.raises(Exception, match=r"No such|Missing|unexpected extra|is not one of"):
        parse(line.split())


def test_job_files_that_are_named_are_there() -> None:
    named = set(re.findall(r"\bjobs/[\w./-]+\.yaml", "\n".join(path.read_text() for path in FILES)))
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


def test_job_keys_that_are_named_are_keys() -> None:
    job = {"name": "x", "data": {}, "method": {"name": "mmoe"}}
    for part in re.findall(r"`(\w+: \{[^`]*\})`", README):
        job |= yaml.safe_load(part)
    assert job["launch"]["workers"] == 2
    for words in told():
        for setting in (word for before, word in pairwise(words) if before == "--set"):
            section, key = setting.partition("=")[0].split(".")
            job.setdefault(section, {})[key] = yaml.safe_load(setting.partition("=")[2])
    assert Job.model_validate(job).launch.gpus_per_worker == 1


def test_one_ray_everywhere() -> None:
    (ray,) = re.findall(r"^ray==(\S+)$", text("tools", "constraints.txt"), re.MULTILINE)
    assert {cluster_of(manifest(name))["rayVersion"] for name in ("raycluster", "rayjob")} == {ray}
    assert set(re.findall(r"Ray (\d+\.\d+)\b", README)) == {ray.rpartition(".")[0]}


def test_one_image_everywhere() -> None:
    images = {
        container["image"]
        for name in ("raycluster", "rayjob")
        for template in templates(manifest(name)).values()
        for container in template["spec"]["containers"]
    }
    (image,) = images
    assert image == f"registry.example.com/mdr-dist:{__version__}-cuda"
    assert f"-t {image} " in README
    tags = re.findall(r"mdr-dist:(\S+)", text("cluster", "docker", "Dockerfile"))
    assert tags == [f"{__version__}-cpu", f"{__version__}-cuda"]


def test_one_kuberay_everywhere() -> None:
    (version,) = re.findall(r"helm install .* --version (\d+\.\d+)\.\d+", README)
    for name in ("raycluster", "rayjob"):
        assert f"KubeRay {version}" in text("cluster", "kuberay", f"{name}.yaml")


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_file_says_first_what_it_is_for(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[1 if lines[0].startswith("#!") else 0].startswith("# ")
    if path.suffix != ".md":
        head = "\n".join(lines[: next(place for place, line in enumerate(lines) if place and not line.startswith("#"))])
        assert "Edit" in head


@pytest.mark.parametrize("path", FILES, ids=IDS)
@pytest.mark.parametrize("kind", SECRETS)
def test_file_has_no_secret(path: Path, kind: str) -> None:
    assert not re.search(SECRETS[kind], path.read_text())


@pytest.mark.parametrize("kind", SECRETS)
def test_secret_is_noticed(kind: str) -> None:
    examples = {
        "an AWS key": "key: " + "AKIA" + "ABCDEFGHIJKLMNOP",
        "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
        "a value": "- {name: x, AWS_SECRET_ACCESS_KEY: abc}",
        "a long one": "token " + "aB3" * 12,
    }
    assert re.search(SECRETS[kind], examples[kind])


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_file_opens_nothing_without_saying_who_guards_it(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"0\.0\.0\.0/0|::/0|hostNetwork|type: (LoadBalancer|NodePort)", text)
    lines = text.splitlines()
    for place, line in enumerate(lines):
        if "0.0.0.0" in line:
            assert "uarded by" in lines[place - 1], f"{path}:{place + 1}"


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".yaml"], ids=lambda path: path.name)
def test_yaml_is_plain(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (CLUSTER / target).exists(), target
