"""Measured rows: records of plain cells, and the CSV files that hold them."""
