"""Baselines that read the sequence of a user's earlier items."""
