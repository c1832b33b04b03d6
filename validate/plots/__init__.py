"""Figures of the judge."""
