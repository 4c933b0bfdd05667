"""The papers' methods, by name."""

METHODS: dict[str, str] = {
    "cat_art": "mdr_dist.methods.cat_art:CatArt",
    "crocodile": "mdr_dist.methods.crocodile:Crocodile",
}
