"""Distributed training for multi-domain and cross-domain recommendation."""

__version__ = "0.1.0"
