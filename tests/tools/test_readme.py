"""The README tells the job's keys and the commands as they are."""

import re
from pathlib import Path

import yaml
from pydantic import BaseModel

from mdr_dist.cli import app
from mdr_dist.config import Job

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def keys(model: type[BaseModel], prefix: str = "") -> dict[str, object]:
    """Every key of a job with its default, `required` where it has none."""
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= keys(field.annotation, f"{name}.")
        else:
            found[prefix + name] = "required" if field.is_required() else field.default
    return found


def test_every_key_of_a_job_is_told_with_its_default() -> None:
    told = dict(re.findall(r"^\| `([a-z_.]+)` \| ([^|]+) \|", README, re.MULTILINE))
    expected = keys(Job)
    expected["method.name"] = expected.pop("method")
    assert {key: yaml.safe_load(value) for key, value in told.items()} == {
        key: list(value) if isinstance(value, tuple) else value for key, value in expected.items()
    }


def test_commands_are_those_there_are() -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert set(re.findall(r"^\| `mdr (\w+)", README, re.MULTILINE)) == commands
    assert set(re.findall(r"^mdr (\w+)", README, re.MULTILINE)) <= commands
