"""Methods by name: the two explicit indexes, and a method built from a job's settings."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from mdr_dist.baselines import BASELINES
from mdr_dist.config import validated
from mdr_dist.errors import UserError
from mdr_dist.methods import METHODS
from mdr_dist.methods.base import Method
from mdr_dist.schema import Schema

INDEX: dict[str, str] = {**METHODS, **BASELINES}


def find(name: str) -> type[Method]:
    """The method's class; a `UserError` names the methods there are."""
    if name not in INDEX:
        raise UserError(f"no method named {name!r}; there are: {', '.join(sorted(INDEX))}")
    module, _, attribute = INDEX[name].partition(":")
    return getattr(import_module(module), attribute)


def configured(settings: dict[str, Any]) -> tuple[type[Method], Any]:
    """The class and the `Config` of the method that a job's section `method` asks for; a `UserError` if it is wrong."""
    found = find(settings["name"])
    own = {key: value for key, value in settings.items() if key != "name"}
    return found, validated(found.Config, own, where=f"method {settings['name']}")


def build(settings: dict[str, Any], schema: Schema, *, seed: int) -> Method:
    """The method a job asks for, its dense parameters drawn from `seed`. `settings` is the job's `method` section."""
    found, config = configured(settings)
    torch.manual_seed(seed)
    return found(config, schema)
