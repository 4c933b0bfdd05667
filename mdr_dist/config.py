"""A job: one YAML file, checked whole before anything starts. Defaults live here; a recipe holds what differs."""

# torch and yaml are only partly typed
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mdr_dist import storage
from mdr_dist.errors import UserError

Model = TypeVar("Model", bound=BaseModel)
Placement = Literal["auto", "table_wise", "row_wise", "column_wise", "data_parallel"]


MAX_NAME = 200  # file systems allow 255 bytes


class Section(BaseModel):
    """A part of a job: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """What is read. `batch` counts rows over all workers; `domains` restricts training and evaluation to some of them.

    A global batch is cut into `streams` equal parts, each a stretch of the epoch's order; workers share the streams
    out, so the arithmetic does not depend on their number. 0: the largest divisor of `batch` up to 32. `prefetch`
    counts batches read ahead; `cache_mb` bounds the decoded row groups a worker keeps.
    """

    path: str
    batch: int = Field(default=4096, ge=1)
    domains: tuple[str, ...] = ()
    streams: int = Field(default=0, ge=0)
    prefetch: int = Field(default=4, ge=0)
    cache_mb: int = Field(default=1024, ge=1)


class TablesConfig(Section):
    """Optimizer and placement of embedding tables.

    `placement` is one for all or a mapping from table-name patterns (first match wins). `adam` touches every row each
    step and is refused for tables over `max_dense_rows` rows. `device_gb` is what a worker's tables may take; 0: most
    of a GPU's memory, on CPU no limit. A `dim` that is no multiple of 4 is stored up to four times over.
    """

    optimizer: Literal["rowwise_adagrad", "adagrad", "sgd", "adam"] = "rowwise_adagrad"
    lr: float = Field(default=0.02, gt=0)
    eps: float = Field(default=1e-8, gt=0)
    placement: Placement | dict[str, Placement] = "auto"
    max_dense_rows: int = Field(default=1_000_000, ge=1)
    device_gb: float = Field(default=0, ge=0)


class DenseConfig(Section):
    """Optimizer of the dense parameters, where a stage names none. `clip` bounds the gradient's norm; 0: no bound."""

    optimizer: Literal["adam", "adamw", "sgd", "adagrad"] = "adam"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=0.0, ge=0)


class TrainConfig(Section):
    """How long and how safely.

    `patience` evaluations without a gain of `monitor` on the `val` split end a stage, which then returns to its best
    state; 0: never. `eval_epochs` counts epochs between evaluations, 0: only at the end, which no patience, of the job
    or of its method, allows. A checkpoint is written every `save_minutes` (0: not by time), every `save_steps` steps
    (0: not by steps) and after every stage; the newest `keep` stay. Losses are reported every `log_steps` steps.
    `threads` a worker, 0: as torch chooses. With `export` a run that is done leaves an export of that format in its
    folder, `export/<steps>`: each time that it has gone on, another.
    """

    epochs: int = Field(default=1, ge=1)
    patience: int = Field(default=0, ge=0)
    monitor: str = "auc"
    eval_epochs: int = Field(default=1, ge=0)
    save_minutes: float = Field(default=10.0, ge=0)
    save_steps: int = Field(default=0, ge=0)
    log_steps: int = Field(default=50, ge=1)
    keep: int = Field(default=2, ge=1)
    seed: int = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0)
    export: Literal["", "safetensors", "parquet", "checkpoint"] = ""


class EvalConfig(Section):
    """How methods that retrieve are measured: the lengths `ks` of the lists, and over how many users of a domain.

    `users` are a sample that is the same in every run; 0: all. `candidates` of a domain's users are its own items, or
    those of `all` the domains that are measured, where domains share item ids. No k may exceed the catalogue. With
    `known` only users who took something earlier are asked about: of others a model can know nothing. With `sampled`
    every truth by itself is ranked against so many candidates that its user did not take, each drawn independently and
    the same in every run; 0: against all, as one list a user.
    """

    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(5, 10, 20, 50), min_length=1)
    users: int = Field(default=0, ge=0)
    candidates: Literal["domain", "all"] = "domain"
    known: bool = False
    sampled: int = Field(default=0, ge=0)


class LaunchConfig(Section):
    """Where it runs. `workers` 0: in this process. `storage` is the folder of runs, local or s3://.

    After a loss that the cluster does not make good a run goes on with `min_workers` at the least, 0: with all or none,
    and has `workers` again at the first checkpoint after the cluster can. It waits for the least up to `wait_minutes`.
    """

    workers: int = Field(default=0, ge=0)
    min_workers: int = Field(default=0, ge=0)
    wait_minutes: float = Field(default=10, ge=0)
    gpus_per_worker: float = Field(default=0, ge=0)
    cpus_per_worker: float = Field(default=1, gt=0)
    max_failures: int = Field(default=3, ge=0)
    storage: str = "runs"

    @property
    def least(self) -> int:
        """With how many workers a run goes on."""
        return self.min_workers or self.workers

    @model_validator(mode="after")
    def _least_of_all(self) -> LaunchConfig:
        if self.workers and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} exceed the {self.workers} workers")
        return self


class Job(Section):
    """A whole job. `method` holds `name` and that method's own settings."""

    name: str
    data: DataConfig
    method: dict[str, Any]
    tables: TablesConfig = TablesConfig()
    dense: DenseConfig = DenseConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    launch: LaunchConfig = LaunchConfig()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
            raise ValueError("a run's name is made of letters, digits, '-', '_' and '.', and becomes its folder")
        if len(name) > MAX_NAME:
            raise ValueError(f"a run's name becomes its folder and has {MAX_NAME} letters at most")
        return name

    @field_validator("method")
    @classmethod
    def _named_method(cls, method: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(method.get("name"), str):
            raise ValueError("say which method: `method: {name: crocodile}`")
        return method


def load_job(path: str, settings: tuple[str, ...] = ()) -> Job:
    """The job in a YAML file, with `a.b=value` settings laid over it; `UserError` where either is wrong."""
    return load(Job, path, settings)


def load(model: type[Model], path: str, settings: tuple[str, ...] = ()) -> Model:
    """A YAML file as a `model`, with `a.b=value` settings laid over it; `UserError` where either is wrong."""
    return overlaid(model, load_yaml(path), settings=settings, where=path)


def overlaid(model: type[Model], raw: dict[str, Any], *, settings: tuple[str, ...], where: str) -> Model:
    """`raw` as a `model`, with `a.b=value` settings laid over it; `UserError` where either is wrong."""
    for setting in settings:
        key, value = parsed(setting)
        _set(raw, key.split("."), value, where=f"--set {setting}")
    return validated(model, raw, where=where)


def parsed(setting: str) -> tuple[str, Any]:
    """Key path and value of `a.b=value`, the value read as YAML; a `UserError` if it is none."""
    key, equals, value = setting.partition("=")
    try:
        if equals:
            return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {setting}: {value!r} is not a YAML value; quote it") from error
    raise UserError(f"--set {setting}: write it as key.path=value")


def load_yaml(path: str) -> dict[str, Any]:
    """A YAML mapping; `UserError` with the line if it does not parse or is no mapping."""
    try:
        raw = yaml.safe_load(storage.read_bytes(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a YAML mapping, found {type(raw).__name__}")
    return raw


def validated(model: type[Model], raw: object, *, where: str) -> Model:
    """`raw` as a `model`; a `UserError` of one line that names the first wrong key and what would be right."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(_section(model, first["loc"][:-1]).model_fields))
            raise UserError(f"{where}: unknown key {key!r}; known here: {known}") from error
        got = "" if first["type"] == "missing" else f", got {first['input']!r}"
        raise UserError(f"{where}: {key}: {first['msg']}{got}") from error


def _section(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    for part in path:
        field = model.model_fields.get(str(part))
        if field:  # else a place in a list or a key of a mapping, whose values the last field described
            model = next(_models(field.annotation), model)
    return model


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _set(tree: dict[str, Any], keys: list[str], value: object, *, where: str) -> None:
    for key in keys[:-1]:
        below: object = tree.setdefault(key, {})
        if not isinstance(below, dict):
            raise UserError(f"{where}: {key!r} is a value, not a section")
        tree = below
    tree[keys[-1]] = value
