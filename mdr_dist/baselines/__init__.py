"""The methods that the papers compare with, by name."""

BASELINES: dict[str, str] = {
    "cmf": "mdr_dist.baselines.cross.cmf:CMF",
    "tado": "mdr_dist.baselines.cross.tado:TADO",
    "smf": "mdr_dist.baselines.cross.smf:SMF",
    "shared_bottom": "mdr_dist.baselines.rank.shared_bottom:SharedBottom",
    "mmoe": "mdr_dist.baselines.rank.mmoe:MMoE",
}
