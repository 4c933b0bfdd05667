"""The papers' methods, by name."""

METHODS: dict[str, str] = {
    "adc": "mdr_dist.methods.adc:ADC",
    "cat_art": "mdr_dist.methods.cat_art:CatArt",
    "catn": "mdr_dist.methods.catn:CATN",
    "cl4rec": "mdr_dist.methods.cl4rec:CL4Rec",
    "crocodile": "mdr_dist.methods.crocodile:Crocodile",
    "sml": "mdr_dist.methods.sml:SML",
}
