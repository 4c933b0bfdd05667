"""Saving, restoring and exporting."""
