"""Sparse tensor cores that do not exist yet: what they are, and the cycles, bytes, energy and area they take."""
