"""Baselines that score one row: a user, an item and what surrounds them."""
