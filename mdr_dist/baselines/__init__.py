"""The methods that the papers compare with, by name."""

BASELINES: dict[str, str] = {
    "cmf": "mdr_dist.baselines.cross.cmf:CMF",
    "cdcf": "mdr_dist.baselines.cross.cdcf:CDCF",
    "conet": "mdr_dist.baselines.cross.conet:CoNet",
    "clfm": "mdr_dist.baselines.cross.clfm:CLFM",
    "tado": "mdr_dist.baselines.cross.tado:TADO",
    "smf": "mdr_dist.baselines.cross.smf:SMF",
    "bias": "mdr_dist.baselines.text.bias:Bias",
    "cmf_rating": "mdr_dist.baselines.text.cmf_rating:CMFRating",
    "emcdr": "mdr_dist.baselines.text.emcdr:EMCDR",
    "cdlfm": "mdr_dist.baselines.text.cdlfm:CDLFM",
    "dfm": "mdr_dist.baselines.text.dfm:DFM",
    "r_dfm": "mdr_dist.baselines.text.r_dfm:RDFM",
    "fine_tune": "mdr_dist.baselines.periodic.fine_tune:FineTune",
    "full_retrain": "mdr_dist.baselines.periodic.full_retrain:FullRetrain",
    "spmf": "mdr_dist.baselines.periodic.spmf:SPMF",
    "gru4rec": "mdr_dist.baselines.sequence.gru4rec:GRU4Rec",
    "caser": "mdr_dist.baselines.sequence.caser:Caser",
    "anr": "mdr_dist.baselines.text.anr:ANR",
    "shared_bottom": "mdr_dist.baselines.rank.shared_bottom:SharedBottom",
    "mmoe": "mdr_dist.baselines.rank.mmoe:MMoE",
}
