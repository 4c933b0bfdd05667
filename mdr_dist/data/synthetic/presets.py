"""Named starting points, with settings laid over them."""

from __future__ import annotations

from mdr_dist.config import parsed, validated
from mdr_dist.data.synthetic.config import DriftConfig, ImplicitConfig, SyntheticConfig
from mdr_dist.data.synthetic.planted import Config
from mdr_dist.data.synthetic.review_config import ReviewConfig
from mdr_dist.errors import UserError

PRESETS = {
    "tiny": SyntheticConfig.tiny,
    "conflicting": SyntheticConfig.conflicting,
    "large": SyntheticConfig.large,
    "shared-specific": ImplicitConfig.shared_specific,
    "paper": ImplicitConfig.paper,
    "drift": DriftConfig,
    "reviews": ReviewConfig,
}


def configure(preset: str, settings: tuple[str, ...] = ()) -> Config:
    """The preset with `key=value` settings; a `UserError` names what there is."""
    if preset not in PRESETS:
        raise UserError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    start = PRESETS[preset]()
    value = start.model_dump()
    for setting in settings:
        key, given = parsed(setting)
        value[key] = given
    return validated(type(start), value, where="synth")
