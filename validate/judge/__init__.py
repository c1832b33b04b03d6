"""Measured rows held against predictions: readers, join, metrics, budget."""
