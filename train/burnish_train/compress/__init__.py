"""Smaller students of a checkpoint, tried until one is fast and good enough."""
