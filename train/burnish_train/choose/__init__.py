"""Choosing settings: cross-validation and search."""
