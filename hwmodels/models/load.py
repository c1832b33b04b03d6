"""Models by name or file."""

import difflib
import os
from pathlib import Path

from hwmodels.models.build import build
from hwmodels.models.records import Model
from nmsim.errors import SpecError, brief
from nmsim.support.schema import read_json

WORKLOAD_FOLDER = Path(__file__).parent.parent / "workloads"


def model_names() -> list[str]:
    """List the models that ship with the package.

    Examples
    --------
    >>> {"llama-3.1-8b", "mixtral-8x7b", "deepseek-v3"} <= set(model_names())
    True
    """
    return sorted(path.stem for path in WORKLOAD_FOLDER.glob("*.json"))


def load_model(model: str | Path | Model) -> Model:
    """Load the layers of a model by name, or from a Hugging Face `config.json`.

    Parameters
    ----------
    model : str, Path or Model
        A shipped name in any case (`model_names()`), a `config.json`, a directory that holds one, or a
        `Model`, which comes back as it is.

    Returns
    -------
    Model
        Its `notes` say what was taken from defaults or left out.

    Raises
    ------
    SpecError
        No such model or file, a `model_type` whose layers are not known, a key that is missing or
        malformed, or keys that contradict each other.

    Examples
    --------
    >>> [layer.name for layer in load_model("llama-3.1-8b").layers]
    ['q', 'k', 'v', 'o', 'gate', 'up', 'down', 'lm_head']
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, str) and model.strip().lower() in model_names():
        path = WORKLOAD_FOLDER / f"{model.strip().lower()}.json"
        shipped = read_json(path)
        return build(shipped["name"], shipped["config"], source=shipped["source"], where=str(path))
    path = Path(model)
    if path.is_dir():
        path /= "config.json"
    # A FIFO or a device is there too; the reader says what is wrong with it.
    if not os.path.exists(path):
        near = difflib.get_close_matches(str(model).lower(), model_names(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise SpecError(
            f"model {brief(str(model))}: neither a shipped model nor a file.{hint} Expected a name of "
            "`nmsim model --list`, a Hugging Face config.json or its directory"
        )
    name = path.parent.name if path.name == "config.json" else path.stem
    return build(name or path.stem, read_json(path), source=str(path), where=str(path))
