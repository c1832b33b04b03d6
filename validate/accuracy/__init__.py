"""Measured losses of whole models: what they say, with intervals, claim by claim and layer by layer."""
