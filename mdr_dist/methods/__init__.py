"""The papers' methods, by name."""

METHODS: dict[str, str] = {
    "crocodile": "mdr_dist.methods.crocodile:Crocodile",
}
