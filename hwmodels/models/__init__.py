"""Models: their linear layers and their attention, from the records that ship with nmsim or any `config.json`."""

from hwmodels.models.records import ROLES, Attention, Layer, Model, Role

__all__ = ["ROLES", "Attention", "Layer", "Model", "Role"]
