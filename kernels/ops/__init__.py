"""Operators and layers for torch, by device."""
