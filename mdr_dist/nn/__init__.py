"""Layers and losses that two methods or more use."""
