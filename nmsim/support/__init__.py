"""Plumbing of no subject of its own: compiled functions and their cache, work spread over cores."""
