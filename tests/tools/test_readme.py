"""The README tells the job's keys and the commands as they are, and its own example works."""

import re
from pathlib import Path

import yaml
from pydantic import BaseModel

from mdr_dist.cli import app
from mdr_dist.config import Job, load_job
from mdr_dist.data.prepare import prepare
from mdr_dist.train.run import check

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
    commands |= {group.name for group in app.registered_groups}
    assert set(re.findall(r"^\| `mdr (\w+)", README, re.MULTILINE)) == commands
    assert set(re.findall(r"^mdr (\w+)", README, re.MULTILINE)) <= commands


def test_the_csv_example_works(tmp_path: Path) -> None:
    recipe, job, *_ = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    header = re.findall(r"```csv\n(.*?)\n", README)[0]
    rows = [f"{1700000000 + n},{'de' if n % 3 else 'fr'},u{n % 7},i{n % 11},{n % 5}.5,{n % 2}" for n in range(2000)]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "clicks.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    (tmp_path / "prepare.yaml").write_text(recipe, encoding="utf-8")
    (tmp_path / "crocodile.yaml").write_text(job, encoding="utf-8")

    report = prepare(str(tmp_path / "prepare.yaml"), str(tmp_path / "data"), raw=str(tmp_path / "raw"))
    plan = check(load_job(str(tmp_path / "crocodile.yaml"), (f"data.path={tmp_path / 'data'}",)))

    assert report["rows"]["written"] == 2000
    assert {name: domain["rows"] for name, domain in report["domains"].items()} == {
        "de": {"train": 1066, "val": 134, "test": 133},
        "fr": {"train": 534, "val": 66, "test": 67},
    }
    assert plan.dataset.schema.domains == ("de", "fr")
