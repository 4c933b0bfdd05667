"""Named starting points, with settings laid over them."""

from __future__ import annotations

import yaml

from mdr_dist.config import validated
from mdr_dist.data.synthetic.config import SyntheticConfig
from mdr_dist.errors import UserError

PRESETS = {
    "tiny": SyntheticConfig.tiny,
    "conflicting": SyntheticConfig.conflicting,
    "large": SyntheticConfig.large,
}


def configure(preset: str, settings: tuple[str, ...] = ()) -> SyntheticConfig:
    """The preset with `key=value` settings; a `UserError` names what there is."""
    if preset not in PRESETS:
        raise UserError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    value = PRESETS[preset]().model_dump()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"{setting}: write it as key=value")
        value[key] = yaml.safe_load(text)
    return validated(SyntheticConfig, value, where="synth")
