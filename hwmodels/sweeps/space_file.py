"""Design spaces as TOML files, or as dictionaries of the same form."""

import difflib
import itertools
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from hwmodels.estimate.table import MAX_DIMENSION
from hwmodels.machine.toml_table import checked_table
from hwmodels.sweeps.quality import read_quality
from hwmodels.sweeps.space import DENSE, GATHERED, MAX_POINTS, NOTHING, Axis, Product, Space, Stored, Work
from hwmodels.tensorcore.record import FLAGS, NUMBERS, WORDS, SparseTensorCore, load_core
from hwmodels.workload import load_model
from nmsim import encodings, packing
from nmsim.case import SparseOperand, value_type
from nmsim.errors import NmsimError, SpecError
from nmsim.pattern import Pattern

MAX_NUMBER = 1 << 53
"""Largest number of a core on an axis: all whole ones up to it are exact in a float64."""
MAX_SEED = (1 << 64) - 1
EXAMPLE_FILE = Path(__file__).parents[1] / "data" / "example-space.toml"
CASE_AXES = (
    "core", "pattern", "other_pattern", "encoding", "packing", "sparse_operand", "dtype", "tokens",
)  # fmt: skip
CORE_AXES = (*NUMBERS, *FLAGS, *WORDS)
MEANT: Mapping[str, str] = MappingProxyType(
    {
        "precision": "dtype",
        "batch": "tokens",
        "M": "tokens",
        "bandwidth": "dram_bytes_per_cycle",
        "array": "array_rows, array_cols or array_depth",
        "decoder": "decoder_groups_per_cycle",
        "clock": "clock_hz",
        "node": "node_nm",
        "patterns": "pattern",
        "encodings": "encoding",
        "packings": "packing",
        "dtypes": "dtype",
        "sparse_operands": "sparse_operand",
        "model": "workload.model",
        "layers": "workload.layers",
        "shapes": "workload.shapes",
    }
)
"""Other words for an axis, and its name."""


def load_space(space: str | Path | Mapping[str, Any] | Space) -> Space:
    """Load a design space.

    Parameters
    ----------
    space : str, Path, mapping or Space
        Path of a TOML file, or what such a file holds as a mapping. A `Space` comes back as it is.

    Returns
    -------
    Space

    Raises
    ------
    SpecError
        An unknown, missing or malformed entry, named with its place.

    Examples
    --------
    >>> space = load_space({
    ...     "core": {"base": "flexible-8x16"},
    ...     "axes": {"pattern": ["2:4", "8:16"], "tokens": [1, 64], "array_depth": [8, 16, 32]},
    ...     "workload": {"shapes": [[4096, 4096]]},
    ... })
    >>> space.points
    12
    """
    if isinstance(space, Space):
        return space
    if isinstance(space, Mapping):
        return _space(space, Path())
    if not isinstance(space, str | Path):
        raise SpecError(
            f"space={space!r} (type {type(space).__name__}): expected the path of a TOML file, a mapping or a Space"
        )
    path = Path(space)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as TOML: {error}") from error
    try:
        return _space(document, path.parent)
    except NmsimError as error:
        raise SpecError(f"{path}: {error}") from error


def _space(document: Mapping[str, Any], folder: Path) -> Space:
    tables = checked_table(dict(document), "", ("axes", "workload"), ("core", "sample", "quality", "costs"))
    axes = tables["axes"]
    if not isinstance(axes, dict):
        raise SpecError(f"axes: expected a table, got {axes!r}")
    for name in axes:
        if name not in CASE_AXES + CORE_AXES:
            near = difflib.get_close_matches(name, CASE_AXES + CORE_AXES, n=1)
            meant = MEANT.get(name) or (near[0] if near else "")
            hint = f" Did you mean {meant}?" if meant else ""
            raise SpecError(
                f"axes.{name}: no such axis.{hint} Expected {', '.join(CASE_AXES)}, or a number, flag or word of a core "
                "(see a core's TOML file)"
            )
    cores = _cores(tables.get("core"), axes, folder)
    swept = tuple(Axis(name, _list(axes, name)) for name in axes if name in CORE_AXES)
    for axis in swept:
        for value in axis.values:
            if isinstance(value, int) and abs(value) > MAX_NUMBER:
                raise SpecError(f"axes.{axis.name}: {value}: expected at most 2**53")
    for axis, core in itertools.product(swept, cores):
        for value in axis.values if axis.name in GATHERED else ():
            try:
                replace(core, **{axis.name: value})  # type: ignore[arg-type]
            except NmsimError as error:
                raise SpecError(f"axes.{error}") from error
    sample = checked_table(tables.get("sample", {"points": 1}), "sample", ("points",), ("seed",))
    space = Space(
        cores=cores,
        axes=swept,
        dtypes=_values(axes, "dtype", ("bf16",), lambda value: value_type(value, "")),
        tokens=_values(axes, "tokens", (1,), _whole),
        works=_works(tables["workload"], folder),
        stored=_stored(axes),
        sample_points=_at(sample, "points", 1, MAX_POINTS) if "sample" in tables else None,
        seed=_at(sample, "seed", 0, MAX_SEED) if "seed" in sample else 0,
        dual="other_pattern" in axes,
        costs=tables.get("costs", True),
    )
    if not isinstance(space.costs, bool):
        raise SpecError(f"costs={space.costs!r}: expected true or false")
    if space.product_points > MAX_POINTS:
        raise SpecError(f"axes: {space.product_points} points: expected at most 2**60")
    if space.points > space.product_points:
        raise SpecError(
            f"sample.points={space.points}: the space has {space.product_points} points, expected no more than these"
        )
    if "quality" not in tables:
        return space
    table = checked_table(tables["quality"], "quality", ("file",))
    if not isinstance(table["file"], str):
        raise SpecError(f"quality.file={table['file']!r}: expected the path of a CSV file")
    return replace(space, quality=read_quality(folder / table["file"], space))


def _cores(section: Any, axes: dict[str, Any], folder: Path) -> tuple[SparseTensorCore, ...]:
    if (section is None) == ("core" not in axes):
        raise SpecError("core: expected either core.base, one core, or axes.core, a list of them")
    if section is not None:
        names: tuple[Any, ...] = (checked_table(section, "core", ("base",))["base"],)
    else:
        names = _list(axes, "core")
    cores = tuple(
        load_core(folder / name if isinstance(name, str) and name.endswith(".toml") else name)
        for name in names
    )
    ids = [core.id for core in cores]
    for name in ids:
        if ids.count(name) > 1:
            raise SpecError(f"axes.core: {name!r} comes twice, expected cores with ids of their own")
    # A plain dictionary, unlike a read-only view, travels to other processes.
    return tuple(replace(core, sources=dict(core.sources)) for core in cores)


def _stored(axes: dict[str, Any]) -> tuple[Stored, ...]:
    if "pattern" not in axes:
        raise SpecError("axes.pattern: missing; this axis is required, such as ['dense', '2:4', '8:16']")
    ways = itertools.product(
        _values(axes, "pattern", (), _pattern),
        _values(axes, "other_pattern", (None,), _pattern),
        _values(axes, "encoding", ("bitmask",), lambda name: encodings.get(name).name),
        _values(axes, "packing", ("bitstream",), lambda name: str(packing.parse(name))),
        _values(axes, "sparse_operand", ("weights",), _one_of(get_args(SparseOperand))),
    )
    dense = Stored(None, None, NOTHING, NOTHING, NOTHING)
    return tuple(dict.fromkeys(dense if way[0] is None else Stored(*way) for way in ways))


def _works(workload: Any, folder: Path) -> tuple[Work, ...]:
    table = checked_table(workload, "workload", (), ("model", "layers", "shapes", "per"))
    if ("model" in table) == ("shapes" in table):
        raise SpecError("workload: expected either model or shapes")
    per = _one_of(("layer", "model"))(table.get("per", "layer"))
    if "shapes" in table:
        for name in ("layers", "per"):
            if name in table:
                raise SpecError(f"workload.{name}: belongs to a model, not to shapes")
        return tuple(
            Work("", f"{N}x{K}", 1, (Product(N, K, 1),)) for N, K in _values(table, "shapes", (), _shape)
        )
    named = [table["model"]] if isinstance(table["model"], str) else table["model"]
    works: list[Work] = []
    for name in _values({"model": named}, "model", (), str):
        shipped = not (folder / name).exists()
        model = load_model(name if shipped else folder / name)
        known = {layer.name: layer for layer in model.layers}
        pruned = tuple(layer.name for layer in model.layers if layer.pruned)
        chosen = [known[layer] for layer in _values(table, "layers", pruned, _one_of(tuple(known)))]
        for each, what in itertools.product(chosen, ("N", "K", "count")):
            if (value := getattr(each, what)) > MAX_DIMENSION:
                raise SpecError(
                    f"workload.model: {model.name}, layer {each.name}: {what}={value}: expected at most {MAX_DIMENSION}"
                )
        if per == "layer":
            works += (
                Work(model.name, each.name, each.count, (Product(each.N, each.K, 1),)) for each in chosen
            )
            continue
        counts: dict[tuple[int, int], int] = {}
        for each in chosen:
            counts[each.N, each.K] = counts.get((each.N, each.K), 0) + each.count
        works.append(
            Work(model.name, "", 1, tuple(Product(*shape, count) for shape, count in counts.items()))
        )
    return tuple(works)


def _list(table: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    where = f"axes.{name}" if name in CASE_AXES + CORE_AXES else f"workload.{name}"
    values = table[name]
    if not isinstance(values, list | tuple) or not values:
        raise SpecError(f"{where}={values!r}: expected a list of at least one value")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise SpecError(f"{where}: {value!r} comes twice, expected each value once")
    return tuple(values)


def _values(
    table: Mapping[str, Any], name: str, default: tuple[Any, ...], parse: Callable[[Any], Any]
) -> tuple[Any, ...]:
    """Values of an axis, each parsed; two texts of one value are refused as well."""
    if name not in table:
        return default
    found: list[Any] = []
    for value in _list(table, name):
        try:
            parsed = parse(value)
        except NmsimError as error:
            where = "axes" if name in CASE_AXES else "workload"
            raise SpecError(f"{where}.{name}: {error}") from error
        found.append(parsed)
    _list({name: found}, name)
    return tuple(found)


def _pattern(text: Any) -> Pattern | None:
    return None if text == DENSE else text if isinstance(text, Pattern) else Pattern.parse(text)


def _one_of(allowed: tuple[str, ...]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise SpecError(f"{value!r}: expected one of {', '.join(allowed)}")
        return str(value)

    return parse


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_DIMENSION:
        raise SpecError(f"{value!r}: expected a positive whole number up to {MAX_DIMENSION}")
    return value


def _shape(value: Any) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise SpecError(f"{value!r}: expected [N, K], out features and in features")
    return _whole(value[0]), _whole(value[1])


def _at(sample: dict[str, Any], name: str, least: int, most: int) -> int:
    value = sample[name]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise SpecError(
            f"sample.{name}={value!r}: expected a whole number of at least {least}, at most {most}"
        )
    return value
