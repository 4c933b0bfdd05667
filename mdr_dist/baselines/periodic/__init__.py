"""Baselines that are trained again every period."""
