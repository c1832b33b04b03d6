"""Models: their linear layers and their attention, from the records that ship with nmsim or any `config.json`."""

from hwmodels.models.families import family_names
from hwmodels.models.load import WORKLOAD_FOLDER, load_model, model_names
from hwmodels.models.records import ROLES, Attention, Layer, Model, Role

__all__ = [
    "ROLES",
    "WORKLOAD_FOLDER",
    "Attention",
    "Layer",
    "Model",
    "Role",
    "family_names",
    "load_model",
    "model_names",
]
