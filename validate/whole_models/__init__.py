"""Whole models and online passes: measured tokens per second and microseconds beside predictions."""
