"""Measured rows compared with predictions: readers, join, metrics, budget."""
