"""Baselines that recommend across domains."""
