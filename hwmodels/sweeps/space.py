"""A design space: axes of plain values, whose product, or a sample of it, is what a sweep evaluates.

Spaces are TOML files or dictionaries of the same form. They may hold the user's own figure of merit of their points.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from hwmodels.estimate.table import MAX_DIMENSION
from hwmodels.models import Model, load_model
from hwmodels.steps.fusion import fused
from hwmodels.sweeps.products import Product, Work, products_of
from hwmodels.tensorcore.point import CORE_FIELDS
from hwmodels.tensorcore.record import FLAGS, IN_GROUPS, NUMBERS, RENAMED, WORDS, SparseTensorCore, load_core
from nmsim import encodings, packing
from nmsim.case import VALUE_BITS, Case, GemmShape, SparseOperand, value_type
from nmsim.errors import EncodingError, NmsimError, RowError, SpecError, brief
from nmsim.format import DEFAULT_ENCODING, DEFAULT_PACKING, DENSE, SparseFormat, sparse_format
from nmsim.pattern import Pattern
from nmsim.support.names import did_you_mean
from nmsim.support.schema import (
    About,
    Flag,
    Number,
    Parsed,
    Text,
    about,
    hints,
    load_record,
    read_toml,
    record,
)
from nmsim.support.sources import csv_rows, read_text

NOTHING = "none"
"""What `encoding`, `packing` and `sparse_operand` say of it."""
DECIDES_MORE = (
    "multicast",
    "selector_elements_per_cycle",
    "decoder_latency_cycles",
    "selector_latency_cycles",
)
"""Numbers of a core that other numbers of a `Point`, or areas, follow from."""
GATHERED = tuple(name for name in CORE_FIELDS if name not in DECIDES_MORE)
"""Numbers of a core that change a `Point` in their own field and nowhere else, so that arrays of them are put in."""
MAX_POINTS = 1 << 60
STAND_IN = GemmShape(M=1, N=2, K=1)
"""Shape of a case before its own is known. M and N differ, so that a `Point` says which of the two came first."""

Integers = NDArray[np.int64]


class SweptFormat(NamedTuple):
    """How the operands are stored: nothing is sparse if `format` is None, one operand if `other` is.

    `unknown` has pattern, encoding and packing of what cannot be stored so, and `refused` says why. `format` is None then.
    """

    format: SparseFormat | None = None
    other: Pattern | None = None
    sparse_operand: SparseOperand = "weights"
    unknown: tuple[str, str, str] = ("", "", "")
    refused: str = ""

    def case(self, dtype: str) -> Case:
        """A case that is stored so, with a shape that stands for any."""
        return Case(STAND_IN, self.format, dtype=dtype, sparse_operand=self.sparse_operand)

    @property
    def cells(self) -> dict[str, str]:
        """Its texts in the columns of an answer."""
        if self.refused:
            stated = zip(("pattern", "encoding", "packing"), self.unknown, strict=True)
            return {
                **dict(stated),
                "other_pattern": str(self.other or DENSE),
                "sparse_operand": self.sparse_operand,
            }
        if self.format is None:
            dense = {"pattern": DENSE, "other_pattern": DENSE}
            return dense | dict.fromkeys(("encoding", "packing", "sparse_operand"), NOTHING)
        return {
            "pattern": str(self.format.pattern),
            "other_pattern": str(self.other or DENSE),
            "encoding": self.format.encoding.name,
            "packing": str(self.format.packing),
            "sparse_operand": self.sparse_operand,
        }


class Axis(NamedTuple):
    """Values that a number, flag or word of the core takes."""

    name: str
    values: tuple[object, ...]


class MeasuredQuality(NamedTuple):
    """What a reader of measured qualities gives a sweep: a value and its interval by sparse operand and pattern.

    `column` is its name in the answer. `least`: less of it is better. `source` is what errors call it.
    """

    column: str
    least: bool
    ways: Mapping[tuple[str, str], tuple[float, float, float]]
    source: str


class WayChoice(NamedTuple):
    """Which measured ways to prune count: criterion and mitigation, "" for the best one, and choices `KEY=VALUE` of rows."""

    criterion: str = ""
    mitigation: str = ""
    of: tuple[str, ...] = ()


QualityReader = Callable[[str, WayChoice, Sequence[Pattern]], MeasuredQuality]
"""Reads a name or a file of measured qualities, of some patterns. `validate` has one; this package imports none."""


@dataclass(frozen=True)
class PointQuality:
    """Quality of each (work, dtype, way to store) of a space, in this order.

    Parameters
    ----------
    values : tuple of float
    column : str
        Name of the column in the answer.
    least : bool
        Less is better.
    low, high : tuple of float
        Ends of the interval of each value; empty if there are none.
    """

    values: tuple[float, ...]
    column: str = "quality"
    least: bool = False
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def columns(self) -> dict[str, tuple[float, ...]]:
        """Columns of the answer, and a value of each of (work, dtype, way to store)."""
        ends = {f"{self.column}_low": self.low, f"{self.column}_high": self.high}
        return {self.column: self.values} | {name: values for name, values in ends.items() if values}


@dataclass(frozen=True, kw_only=True)
class Space:
    """A design space as `load_space` makes it. Its order: cores outermost, ways to store innermost.

    Parameters
    ----------
    cores : tuple of SparseTensorCore
    axes : tuple of Axis
        Numbers, flags and words of the cores, each value put in the place of the core's own.
    dtypes : tuple of str
    tokens : tuple of int
        Rows of X: sequences of a decode step, or tokens of a prompt.
    works : tuple of Work
    stored : tuple of SweptFormat
    sample_points : int, optional
        Draw so many points of the product; all of it when absent.
    seed : int
    quality : PointQuality, optional
        The user's own, of which more is better, or one that was measured.
    dual : bool
        The space has an axis `other_pattern`.
    costs : bool
        Add energy and area.
    """

    cores: tuple[SparseTensorCore, ...]
    axes: tuple[Axis, ...]
    dtypes: tuple[str, ...]
    tokens: tuple[int, ...]
    works: tuple[Work, ...]
    stored: tuple[SweptFormat, ...]
    sample_points: int | None = None
    seed: int = 0
    quality: PointQuality | None = field(default=None, repr=False)
    dual: bool = False
    costs: bool = True

    @property
    def lengths(self) -> tuple[int, ...]:
        """Values of each axis, outermost first: cores, `axes`, dtypes, tokens, works, ways to store."""
        inner = (self.dtypes, self.tokens, self.works, self.stored)
        return (len(self.cores), *(len(axis.values) for axis in self.axes), *map(len, inner))

    @property
    def product_points(self) -> int:
        """Points of the whole product."""
        return math.prod(self.lengths)

    @property
    def points(self) -> int:
        """Points that a sweep evaluates."""
        return self.product_points if self.sample_points is None else self.sample_points

    @property
    def by_layer(self) -> bool:
        """Whether a row stands for one product, whose cycles are its own."""
        return all(work.layer and len(work.products) == 1 for work in self.works)

    @property
    def digest(self) -> str:
        """Hexadecimal digits that two spaces share only if all their values are equal."""
        return hashlib.sha256(repr((self, self.quality)).encode()).hexdigest()[:16]

    def indices(self, start: int, stop: int) -> Integers:
        """Places in the product of the points `start` to `stop`, ascending.

        A sample cuts the product into equal parts, in its order, and draws one point of each. So no point comes twice, and
        every range of an axis is drawn as often as its share. Any part of the sample can be drawn on its own.

        Source
        ------
        Stratified sampling. Random numbers: Philox, J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
        SC 2011, as numpy implements it.
        """
        places = np.arange(start, stop, dtype=np.int64)
        if self.sample_points is None:
            return places
        part, longer = divmod(self.product_points, self.sample_points)
        first = places * part + np.minimum(places, longer)
        draws = np.random.Philox(key=self.seed).advance(start // 4)
        numbers = draws.random_raw(stop - start + start % 4)[start % 4 :]
        shares = (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53
        widths = part + (places < longer)
        chosen: Integers = first + np.minimum((shares * widths).astype(np.int64), widths - 1)
        return chosen


KEYS = ("pattern", "other_pattern", "encoding", "packing", "sparse_operand", "dtype", "model", "layer")
"""Columns that a row may be matched by; each is compared with the text of the column of that name in the answer."""


def read_quality(path: Path, space: Space) -> PointQuality:
    """Read a CSV file with a column `quality` and one or more of `KEYS`, and match it with a space.

    Parameters
    ----------
    path : Path
    space : Space

    Returns
    -------
    PointQuality

    Raises
    ------
    RowError
        An unknown or missing column, a cell that is not a number, or a key that comes twice. A row that matches nothing in
        the space, or a point of the space that no row matches.
    """
    lines = csv_rows(
        read_text(path, error=RowError, encoding="utf-8-sig").splitlines(), where=path, error=RowError
    )
    header = lines[0] if lines else []
    for name in header:
        if name != name.strip():
            raise RowError(f"{path}: column {brief(name)}: expected a name without spaces around it")
    keys = tuple(name for name in header if name != "quality")
    if "quality" not in header or not keys or not set(keys) <= set(KEYS) or len(set(header)) < len(header):
        raise RowError(
            f"{path}: columns {', '.join(header) or 'none'}: expected quality and one or more of {', '.join(KEYS)}, each once"
        )
    rows: dict[tuple[str, ...], float] = {}
    problems: list[str] = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            problems.append(f"line {number}: {len(line)} cells: expected {len(header)}")
            continue
        cells = dict(zip(header, (cell.strip() for cell in line), strict=True))
        key = tuple(cells[name] for name in keys)
        if key in rows:
            problems.append(f"line {number}: {', '.join(key)} comes twice, expected one row of each")
            continue
        try:
            rows[key] = float(cells["quality"])
        except ValueError:
            rows[key] = math.nan
        if not math.isfinite(rows[key]):
            problems.append(f"line {number}: quality={brief(cells['quality'])}: expected a number")
    wanted = [tuple(point[name] for name in keys) for point in _texts(space)]
    problems += [
        f"no row for {_named(keys, key)}; every point of the space needs one"
        for key in dict.fromkeys(wanted)
        if key not in rows
    ]
    # A row that matches nothing is mostly a misspelt pattern, so it is not ignored.
    known = set(wanted)
    problems += [f"{_named(keys, key)}: matches no point of the space" for key in rows if key not in known]
    if problems:
        raise RowError.of_all([RowError(f"{path}: {problem}") for problem in problems])
    return PointQuality(tuple(rows[key] for key in wanted))


OF_OTHERS = ("window_losses", "relative_output_error")
"""Columns of tables that nmsim writes itself: rows of losses, and the table of `nmsim quality`."""
NO_LOSS = (0.0, 0.0, 0.0)


def is_measured(path: Path) -> bool:
    """Whether a file is one of measured qualities, and not of the user's own figures."""
    lines = read_text(path, error=RowError, encoding="utf-8-sig").splitlines()[:1]
    (header,) = csv_rows(lines, where=path, error=RowError) or [[]]
    return "quality" not in header and any(name in header for name in OF_OTHERS)


def measured_quality(found: MeasuredQuality, space: Space) -> PointQuality:
    """Match measured qualities with a space by pattern and sparse operand. What is dense loses nothing.

    Raises
    ------
    RowError
        A point of the space that nothing was measured for, or a space that prunes both operands.
    """
    if space.dual:
        raise RowError(
            f"{found.source}: the space has other_pattern: expected one pruned operand, whose quality was measured alone"
        )
    dense = NO_LOSS if found.least else (1.0, 1.0, 1.0)
    wanted = [(point["sparse_operand"], point["pattern"]) for point in _texts(space)]
    problems = [
        f"no {found.column} of {operand} at {pattern}; every point of the space needs one"
        for operand, pattern in dict.fromkeys(wanted)
        if pattern != DENSE and (operand, pattern) not in found.ways
    ]
    if problems:
        raise RowError.of_all([RowError(f"{found.source}: {problem}") for problem in problems])
    values, low, high = zip(*(dense if key[1] == DENSE else found.ways[key] for key in wanted), strict=True)
    known = not any(map(math.isnan, (*low, *high)))
    return PointQuality(values, found.column, found.least, low if known else (), high if known else ())


def _texts(space: Space) -> Iterator[dict[str, str]]:
    for work, dtype, stored in itertools.product(space.works, space.dtypes, space.stored):
        yield stored.cells | {"dtype": dtype, "model": work.model, "layer": work.layer}


def _named(keys: tuple[str, ...], key: tuple[str, ...]) -> str:
    return ", ".join(f"{name}={text}" for name, text in zip(keys, key, strict=True))


MAX_SEED = (1 << 64) - 1
EXAMPLE_FILE = Path(__file__).parents[1] / "data" / "example-space.toml"
CORE_AXES = (*NUMBERS, *FLAGS, *WORDS)
MEANT: Mapping[str, str] = MappingProxyType(
    {
        "precision": "dtype",
        "batch": "tokens",
        "M": "tokens",
        "bandwidth": "dram_bytes_per_cycle",
        "array": "array_rows, array_cols or array_depth",
        "decoder": "decoder_elements_per_cycle",
        **IN_GROUPS,
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


_folder: ContextVar[Path] = ContextVar("_folder", default=Path())
"""Folder of the file that is being read, which its own paths start from."""


def _core(name: Any) -> SparseTensorCore:
    return load_core(_folder.get() / name if isinstance(name, str) and name.endswith(".toml") else name)


def _model(name: Any) -> Model:
    if not isinstance(name, str) or not name.strip():
        raise SpecError("expected text")
    path = _folder.get() / name
    return load_model(path if path.exists() else name)


def _csv(name: Any) -> Path:
    if not isinstance(name, str) or not name.strip():
        raise SpecError("expected text")
    path = _folder.get() / name
    if not path.is_file():
        raise SpecError(f"{path}: cannot be read: expected a CSV file")
    return path


def _pattern(text: Any) -> Pattern | None:
    return None if text == DENSE else text if isinstance(text, Pattern) else Pattern.parse(text)


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) not in (2, 3):
        raise SpecError("expected [N, K] or [N, K, count]: out features, in features, products")
    for size in value:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_DIMENSION:
            raise SpecError(f"{brief(size)}: expected a positive whole number up to {MAX_DIMENSION}")
    return tuple(value)


def _twice(values: tuple[Any, ...]) -> str:
    """What is wrong with the values of an axis; empty if nothing is."""
    if not values:
        return "expected a list of at least one value"
    again = next((value for place, value in enumerate(values) if value in values[:place]), MISSING)
    return "" if again is MISSING else f"{brief(again)} comes twice, expected each value once"


class _Axes:
    """Axes of a design space: how operands are stored, what is multiplied, and any number, flag or word of the core."""

    synonyms = MEANT
    renamed = RENAMED

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse empty axes, and values that come twice."""
        for name in hints(type(self)):
            values = getattr(self, name)
            if values is not None and (problem := _twice(values)):
                yield name, problem


TEXT = {"type": "string", "pattern": r"\S"}
CoreName = Annotated[Any, Parsed(_core, keep=True, schema={})]
ModelName = Annotated[str, Parsed(_model, keep=True, schema=TEXT)]
Values = tuple[Annotated[Any, Parsed(_pattern)], ...]
CASE_AXES: dict[str, Any] = {
    "pattern": Annotated[Values, About("Patterns, and `dense`.")],
    "core": Annotated[tuple[CoreName, ...] | None, About("Cores by name or file, instead of `core.base`.")],
    "other_pattern": Annotated[Values | None, About("Patterns of the other operand.")],
    "encoding": Annotated[
        tuple[Annotated[str, Parsed(lambda name: encodings.get(name).name)], ...] | None,
        About("Metadata encodings; `bitmask` if left out."),
    ],
    "packing": Annotated[
        tuple[Annotated[str, Parsed(lambda name: str(packing.parse(name)))], ...] | None,
        About("Packings; `bitstream` if left out."),
    ],
    "sparse_operand": Annotated[
        tuple[SparseOperand, ...] | None, About("Operands that are sparse; `weights` if left out.")
    ],
    "dtype": Annotated[
        tuple[Annotated[str, Parsed(lambda name: value_type(name, ""))], ...] | None,
        About("Value types; `bf16` if left out."),
    ],
    "tokens": Annotated[
        tuple[Annotated[int, Number("tokens", least=1, most=MAX_DIMENSION)], ...] | None,
        About("Sequences of a decode step, or tokens of a prompt; 1 if left out."),
    ],
}
# Each number, flag and word of a core is an axis, with the checks that the core declares.
CORE_AXIS_HINTS = {
    name: Annotated[
        tuple[hints(SparseTensorCore)[name], ...] | None,  # type: ignore[misc]
        About(f"Of the core: {about(SparseTensorCore, name).meaning}"),
    ]
    for name in CORE_AXES
}
_HINTS = CASE_AXES | CORE_AXIS_HINTS
_OPTIONAL = {name: None for name in _HINTS if name != "pattern"}
Axes: Any = record(type("Axes", (_Axes,), {"__module__": __name__, "__annotations__": _HINTS, **_OPTIONAL}))


Shape = Annotated[
    tuple[int, ...],
    Parsed(
        _shape,
        words="`[N, K]` or `[N, K, count]`",
        schema={"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 3},
    ),
]


# fmt: off
@record
class Base:
    """The core of a space with one core."""

    base: Annotated[CoreName, About("A core by name, or the path of a TOML file.")]


@record
class Workload:
    """Products that are multiplied: layers of models, or shapes."""

    model: Annotated[tuple[ModelName, ...] | None, BeforeValidator(lambda v: (v,) if isinstance(v, str) else v),
        About("Models by name or `config.json`.")] = None
    layers: Annotated[tuple[Text, ...] | None, About("Layers of the models; the pruned ones if left out.")] = None
    per: Annotated[Literal["layer", "model"] | None, About("A row per layer or shape, the default, or one that adds all up, "
        "each times its count.")] = None
    shapes: Annotated[tuple[Shape, ...] | None, About("Out features and in features of products, in elements, and how many "
        "there are; 1 if left out.")] = None
    output_dtype: Annotated[Annotated[str, Parsed(lambda name: value_type(name, ""))] | None,
        About("Value type of outputs that are requantised; 16 bits, or 32 for 32-bit values, if left out.")] = None
    fuse: Annotated[tuple[Literal["qkv", "gate_up"], ...] | None,
        About("Layers of the models that are one product. `gate_up` writes half of its outputs.")] = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check that either models or shapes are given."""
        if (self.model is None) == (self.shapes is None):
            yield "", "expected either model or shapes"
        for name in ("layers", "fuse"):
            if self.shapes is not None and getattr(self, name) is not None:
                yield name, "belongs to a model, not to shapes"
        for name in ("model", "layers", "shapes", "fuse"):
            values = getattr(self, name)
            if values is not None and (problem := _twice(values)):
                yield name, problem
        for model in map(_model, self.model or ()):
            try:
                known = [launch.layer.name for launch in fused(model.layers, self.fuse or ())]
            except SpecError as error:
                yield "fuse", str(error)
                continue
            for layer in self.layers or ():
                if layer not in known:
                    yield "layers", f"{brief(layer)}: expected one of {', '.join(known)}{did_you_mean(layer, known)}"


@record
class Sample:
    """Points that are drawn instead of all."""

    points: Annotated[int, Number("points", "Points to draw.", least=1, most=MAX_POINTS)]
    seed: Annotated[int, Number("seed", "Seed of the draw.", least=0, most=MAX_SEED)] = 0


@record
class Quality:
    """Quality of each way to store: a figure of the user, or what was measured."""

    file: Annotated[Any, Parsed(_csv, schema=TEXT), About("CSV file with columns pattern (encoding, dtype, ...) and quality; "
        "or one that `losses` takes.")] = None
    losses: Annotated[Text | None, About("`smollm2`, the losses that ship with nmsim, a CSV file of rows of losses, or the "
        "table of `nmsim quality`.")] = None
    criterion: Annotated[Text | None, About("Criterion of the measured ways that count. If left out, any: the best way "
        "counts among those that cost no more than their format.")] = None
    mitigation: Annotated[Text | None, About("Mitigations of the measured ways that count, or `none`; "
        "as for `criterion`.")] = None
    of: Annotated[tuple[Text, ...] | None, About("Which rows count, as KEY=VALUE such as `text=news`.")] = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check that one file is named."""
        if (self.file is None) == (self.losses is None):
            yield "", "expected either file or losses"

    @property
    def choice(self) -> WayChoice:
        """Which ways count."""
        return WayChoice(self.criterion or "", self.mitigation or "", self.of or ())


@record
class SpaceFile:
    """A design space: each combination of the values of its axes is a point."""

    axes: Annotated[Axes, About("Axes and their values.")]
    workload: Annotated[Workload, About("What is multiplied.")]
    core: Annotated[Base | None, About("The core, if no axis names cores.")] = None
    sample: Annotated[Sample | None, About("Draw points instead of taking all.")] = None
    quality: Annotated[Quality | None, About("Quality, such as an accuracy.")] = None
    costs: Annotated[Flag, About("Whether energy and area are added.")] = True
    # fmt: on

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check that cores are named once."""
        if (self.core is None) == (self.axes.core is None):
            yield "core", "expected either core.base, one core, or axes.core, a list of them"


def load_space(
    space: str | Path | Mapping[str, Any] | Space, *, read_measured: QualityReader | None = None
) -> Space:
    """Load a design space.

    Parameters
    ----------
    space : str, Path, mapping or Space
        Path of a TOML file, or what such a file holds as a mapping. A `Space` comes back as it is.
    read_measured : function, optional
        Reads measured qualities: `validate.accuracy.beside_cost.for_sweep`. Needed if the space names some.

    Returns
    -------
    Space

    Raises
    ------
    SpecError
        Unknown, missing or malformed entries, each named with its place.

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
        return _space(space, "", read_measured)
    if not isinstance(space, str | Path):
        raise SpecError(
            f"space={brief(space)} (type {type(space).__name__}): expected the path of a TOML file, a mapping or a Space"
        )
    path = Path(space)
    document = read_toml(path)
    token = _folder.set(path.parent)
    try:
        return _space(document, str(path), read_measured)
    except NmsimError as error:
        placed = all(problem.startswith(f"{path}: ") for problem in error.args)
        raise SpecError(*(error if placed else error.within(str(path))).args) from error
    finally:
        _folder.reset(token)


def _space(document: Mapping[str, Any], where: str, read_measured: QualityReader | None) -> Space:
    try:
        file = load_record(SpaceFile, document, where=where)
    except SpecError as error:
        raise SpecError(*error.args, *_too_many_points(document, where)) from None
    cores = _distinct(tuple(map(_core, file.axes.core or (file.core and file.core.base,))))
    # Axes stand in the order of the document, which is the order of points.
    named = [name for name in document["axes"] if name in CORE_AXES]
    swept = tuple(Axis(name, values) for name in named if (values := getattr(file.axes, name)) is not None)
    for axis, core in itertools.product(swept, cores):
        for value in axis.values if axis.name in GATHERED else ():
            try:
                replace(core, **{axis.name: value})  # type: ignore[arg-type]
            except NmsimError as error:
                raise SpecError(f"axes.{error}") from error
    space = Space(
        cores=cores,
        axes=swept,
        dtypes=file.axes.dtype or ("bf16",),
        tokens=file.axes.tokens or (1,),
        works=_works(file.workload),
        stored=_stored(file.axes),
        sample_points=file.sample.points if file.sample else None,
        seed=file.sample.seed if file.sample else 0,
        dual=file.axes.other_pattern is not None,
        costs=file.costs,
    )
    if space.product_points > MAX_POINTS:
        raise SpecError(f"axes: {space.product_points} points: expected at most 2**60")
    if space.points > space.product_points:
        raise SpecError(
            f"sample.points={space.points}: the space has {space.product_points} points, expected no more than these"
        )
    return replace(space, quality=_quality(file.quality, space, read_measured)) if file.quality else space


def _quality(table: Quality, space: Space, read_measured: QualityReader | None) -> PointQuality:
    """The quality of each point, from either kind of file."""
    if table.file is not None and not is_measured(table.file):
        chosen = [name for name in ("criterion", "mitigation", "of") if getattr(table, name) is not None]
        if chosen:
            raise SpecError(f"quality.{chosen[0]}: {table.file} has figures of your own: expected measured ones")
        return read_quality(table.file, space)
    if read_measured is None:
        raise SpecError("quality: measured qualities need load_space(..., read_measured=for_sweep) of validate")
    inside = _folder.get() / (table.losses or "")
    name = str(table.file) if table.file is not None else str(inside if inside.is_file() else table.losses)
    patterns = [stored.format.pattern for stored in space.stored if stored.format is not None]
    return measured_quality(read_measured(name, table.choice, patterns), space)


def _too_many_points(document: Mapping[str, Any], where: str) -> Iterator[str]:
    """The problem of a sample larger than its space, in a file with other problems; models have layers to count first."""
    axes, workload, sample = (document.get(name) for name in ("axes", "workload", "sample"))
    if not all(isinstance(table, Mapping) for table in (axes, workload, sample)):
        return
    lists = [*axes.values(), workload.get("shapes")]  # type: ignore[union-attr]
    points = sample.get("points")  # type: ignore[union-attr]
    if not all(isinstance(values, list | tuple) for values in lists) or not isinstance(points, int):
        return
    most = math.prod(map(len, lists))
    if points > most:
        prefix = f"{where}: " if where else ""
        yield f"{prefix}sample.points={points}: the space has {most} points, expected no more than these"


def _distinct(cores: tuple[SparseTensorCore, ...]) -> tuple[SparseTensorCore, ...]:
    ids = [core.id for core in cores]
    for name in ids:
        if ids.count(name) > 1:
            raise SpecError(f"axes.core: {brief(name)} comes twice, expected cores with ids of their own")
    return cores


def _stored(axes: Any) -> tuple[SweptFormat, ...]:
    stored: dict[SweptFormat, None] = {}
    for pattern, other, encoding, policy, operand in itertools.product(
        axes.pattern,
        axes.other_pattern or (None,),
        axes.encoding or (DEFAULT_ENCODING,),
        axes.packing or (DEFAULT_PACKING,),
        axes.sparse_operand or ("weights",),
    ):
        # Dense is dense, whatever the other axes say.
        if pattern is None:
            stored[SweptFormat()] = None
            continue
        try:
            swept = SweptFormat(sparse_format(pattern, encoding=encoding, packing=policy), other, operand)
        except EncodingError as error:
            # A point that cannot be is kept and counted, as those that a core refuses.
            swept = SweptFormat(None, other, operand, (str(pattern), encoding, policy), str(error))
        stored[swept] = None
    return tuple(stored)


def _works(workload: Workload) -> tuple[Work, ...]:
    narrow = 0 if workload.output_dtype is None else VALUE_BITS[workload.output_dtype]
    if workload.shapes is not None:
        counted = [(shape[0], shape[1], shape[2] if len(shape) > 2 else 1) for shape in workload.shapes]
        if workload.per == "model":
            return (Work("", "", 1, tuple(Product(N, K, count, output_bits=narrow) for N, K, count in counted)),)
        return tuple(
            Work("", f"{N}x{K}", count, (Product(N, K, 1, output_bits=narrow),)) for N, K, count in counted
        )
    works: list[Work] = []
    for name in workload.model or ():
        model = _model(name)
        # Layers are named as they run, so that a fused one can be chosen.
        launches = {launch.layer.name: launch for launch in fused(model.layers, workload.fuse or ())}
        pruned = tuple(name for name, launch in launches.items() if launch.layer.pruned)
        chosen = [launches[layer] for layer in workload.layers or pruned]
        for each, what in itertools.product(chosen, ("N", "K", "count")):
            if (value := getattr(each.layer, what)) > MAX_DIMENSION:
                raise SpecError(
                    f"workload.model: {model.name}, layer {each.layer.name}: {what}={value}: expected at most {MAX_DIMENSION}"
                )
        if workload.per != "model":
            works += (
                Work(model.name, each.layer.name, each.layer.places * each.layer.reads, products_of([each], narrow, 1))
                for each in chosen
            )
            continue
        works.append(Work(model.name, "", 1, products_of(chosen, narrow)))
    return tuple(works)
