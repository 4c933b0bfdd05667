"""Named starting points, with settings laid over them."""

from __future__ import annotations

from mdr_dist.config import parsed, validated
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
        key, given = parsed(setting)
        value[key] = given
    return validated(SyntheticConfig, value, where="synth")
