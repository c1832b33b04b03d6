"""Fields of files, declared once: checks, readers, writers, JSON Schemas and tables of the docs come from the declaration.

A file format is a frozen `record`. Each field has a type and, in `Annotated`, one of `About`, `Number`, `OneOf` or `Parsed`.
A field may stand in a section, a table of the file that groups fields of one record.

A number with its source is written in one manner, `{ value = 132, kind = "datasheet", source = "..." }`, a `Quantity`.
"""

import dataclasses
import difflib
import functools
import json
import math
import sys
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)  # fmt: skip

import pydantic.dataclasses
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, Strict, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from nmsim.errors import SpecError, brief
from nmsim.support.sources import read_text
from nmsim.units import UNIT_SUFFIXES

Record = TypeVar("Record")
Kind = Literal["datasheet", "measured", "fitted", "assumed"]
KINDS: tuple[str, ...] = get_args(Kind)
UNITS = (
    *(suffix.removeprefix("_") for suffix in UNIT_SUFFIXES),
    "cores",
    "lanes",
    "lanes_per_core_per_cycle",
    "instructions",
    "watts_per_mm2",
    "parts",
    "tokens",
    "ratio",
)
"""Units a `Quantity` may carry, spelled as in the names of variables and TOML keys."""
SLIPS: Mapping[str, Mapping[str, float]] = {
    "hz": {"MHz": 1e6, "GHz": 1e9},
    "bytes_per_s": {"GB/s": 1e9, "TB/s": 1e12},
    "flop_per_s": {"Gflop/s": 1e9, "Tflop/s": 1e12},
    "elements_per_s": {"10^9 elements/s": 1e9, "10^12 elements/s": 1e12},
    "bytes": {"KB": 1e3, "MB": 1e6, "GB": 1e9},
    "s": {"ns": 1e-9, "us": 1e-6, "ms": 1e-3},
    "joules": {"pJ": 1e-12},
    "joules_per_bit": {"pJ/bit": 1e-12},
    "share": {"percent": 1e-2},
}
"""Unit -> units that a slip may have used instead, with their factors."""
RANGES: Mapping[str, tuple[float, float]] = {
    "bytes_per_s": (1e8, 1e18),
    "bytes_per_cycle": (0, 1e8),
    "flop_per_s": (1e8, 1e21),
    "elements_per_s": (1e4, 1e19),
    "hz": (1e6, 1e11),
    "bytes": (1, 1e15),
    "s": (0, 1),
    "share": (0, 1),
}
"""Unit -> least and most that any machine of interest has of it. A figure outside was given in another unit."""
CAPACITY_RANGE = (1e3, 1e15)
"""Least and most bytes of a memory. A smaller figure was given in KB or MB."""
MOST = 1e15
"""More of anything else is a slip."""
WHOLE_UNITS = ("cores", "lanes", "lanes_per_core_per_cycle", "bytes")
Flag = Annotated[bool, Strict()]
ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._+\-]{0,79}$"
ID_WORDS = "an id: letters, digits, '.', '_', '+' and '-', a letter or digit first, at most 80"


def _printable(text: str) -> str:
    if not text.isprintable():
        raise _problem("expected text without line ends and other characters that do not print")
    return text


Text = Annotated[str, pydantic.Field(pattern=r"\S"), pydantic.AfterValidator(_printable)]
Id = Annotated[str, pydantic.Field(pattern=ID_PATTERN)]
"""The name of a record of its own file: it goes into tables, other files and commands, so it is a plain word."""


class About:
    """What a field means, and the section of the file in which it stands.

    Parameters
    ----------
    meaning : str
        One or two sentences, for the docs and for editors.
    section : str
        Table of the file; empty if the field stands at the top of its record.
    """

    def __init__(self, meaning: str, *, section: str = "") -> None:
        self.meaning = meaning
        self.section = section

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "description": self.meaning}


class Number(About):
    """A number with its unit and range, plain or as a `Quantity` with a source.

    Parameters
    ----------
    unit : str
        As in the names of variables, or a noun such as `"tiles"`.
    meaning, section : str
        As for `About`.
    least, most : float, optional
        Inclusive range; from `RANGES` if left out. A number of a `Quantity` is positive in any case.
    whole : bool, optional
        A whole number; if left out, whether the type of the field is `int` or the unit is one of `WHOLE_UNITS`.
    capacity : bool
        All that a memory holds, so that its range is `CAPACITY_RANGE` if left out.
    """

    def __init__(
        self,
        unit: str,
        meaning: str = "",
        *,
        section: str = "",
        least: float | None = None,
        most: float | None = None,
        whole: bool | None = None,
        capacity: bool = False,
    ) -> None:
        super().__init__(meaning, section=section)
        self.unit = unit
        low, high = CAPACITY_RANGE if capacity else RANGES.get(unit, (0, MOST))
        self.least = low if least is None else least
        self.most = high if most is None else most
        self.whole = whole
        self.positive = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        types = _members(source)
        with_source = Quantity in types
        whole = int in types and float not in types
        self.whole = (
            (self.unit in WHOLE_UNITS if with_source else whole) if self.whole is None else self.whole
        )
        positive = self.positive = with_source and self.least == 0
        schema: CoreSchema = (
            core_schema.int_schema(
                strict=True, ge=max(int(positive), math.ceil(self.least)), le=int(self.most)
            )
            if self.whole
            else core_schema.float_schema(
                strict=True,
                **{"gt" if positive else "ge": self.least},  # type: ignore[arg-type]
                le=self.most,
                allow_inf_nan=False,
            )
        )
        schema = core_schema.with_info_wrap_validator_function(self._number, schema)
        if with_source:
            # A quantity that Python made passes as it is; a file gives a table of three keys.
            fields = {
                "value": schema,
                "kind": core_schema.literal_schema(list(KINDS)),
                "source": core_schema.str_schema(pattern=r"\S"),
            }
            table = core_schema.typed_dict_schema(
                {name: core_schema.typed_dict_field(field) for name, field in fields.items()},
                extra_behavior="forbid",
            )
            schema = core_schema.no_info_wrap_validator_function(self._quantity, table)
        return core_schema.nullable_schema(schema) if NoneType in types else schema

    def _number(self, value: Any, handler: Any, info: Any) -> int | float:
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise _problem(f"expected a number of {self.unit} that a float64 holds")
        try:
            handler(value)
        except ValidationError:
            pass
        else:
            # The value itself, so that a whole number of a float field stays one.
            return cast("int | float", value)
        raise _problem(f"expected {self._expected(value)}{self._slip(value, info.data or {})}")

    def _quantity(self, value: Any, handler: Any) -> "Quantity":
        if isinstance(value, Quantity):
            if value.unit != self.unit:
                raise _problem(f"expected a quantity in {self.unit}")
            return value
        if not isinstance(value, dict):
            raise _problem(
                'expected a table, { value = ..., kind = "...", source = "..." }; a plain number has no source'
            )
        return Quantity(unit=self.unit, **handler(value))

    def _expected(self, value: Any) -> str:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or (self.whole and not isinstance(value, int)):
            return (
                f"a {'whole ' if self.whole else ''}number{'' if self.unit == 'seed' else f' of {self.unit}'}"
            )
        if value <= 0 and self.least == 0:
            return f"a positive number of {self.unit}"
        if value < self.least:
            return f"at least {self.least:g} {self.unit}"
        return f"at most {self.most:g} {self.unit}"

    def _slip(self, value: Any, beside: Mapping[str, Any]) -> str:
        """Ask whether the value was meant in another unit that brings it into the range."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            return ""
        clock_hz = beside.get("clock_hz")
        if self.unit == "bytes_per_cycle" and value > self.most:
            over = f" over clock_hz, {value / clock_hz:g}" if clock_hz else " over clock_hz"
            return f"; did you mean bytes per second? Then give {value:g}{over}"
        factors = SLIPS.get(self.unit, {})
        meant = [
            f"{value * factor:g} ({value:g} {unit})"
            for unit, factor in factors.items()
            if self.least <= value * factor <= self.most
        ]
        return f"; did you mean {' or '.join(meant)}?" if meant and not self._fits(value) else ""

    def _fits(self, value: float) -> bool:
        return self.least <= value <= self.most

    @property
    def range(self) -> str:
        """The range in words, for tables."""
        kind = "whole, " if self.whole else ""
        if self.most < MOST:
            return f"{kind}{self.least:g} to {self.most:g}"
        return f"{kind}positive" if self.positive else f"{kind}at least {self.least:g}"


class OneOf:
    """Text that is one of a few names."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = tuple(names)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(list(self.names))


class Parsed:
    """Text that a function reads, such as a pattern. A value of another type than text goes to the function as well.

    Parameters
    ----------
    parse : callable
        Raises an `NmsimError` for what it does not take.
    keep : bool
        Keep the text as it was given, and use the function as a check only.
    words : str
        What a file gives, for tables.
    schema : mapping, optional
        The same as JSON Schema; text if left out.
    """

    def __init__(
        self,
        parse: Callable[[Any], Any],
        *,
        keep: bool = False,
        words: str = "text",
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        self.parse = parse
        self.keep = keep
        self.words = words
        self.schema = {"type": "string"} if schema is None else dict(schema)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any) -> Any:
            try:
                parsed = self.parse(value)
            except TypeError:
                # A list or table is given to a function that knows text.
                raise _problem(f"expected {self.words}") from None
            return value if self.keep else parsed

        return core_schema.no_info_before_validator_function(read, core_schema.any_schema())

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return self.schema


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def record(cls: type[Record]) -> type[Record]:
    """Make a frozen dataclass whose fields are checked, in files and in Python alike.

    A mapping `synonyms`, if there is one, gives the key that is meant by another word. A mapping `renamed` gives, for a key
    of earlier versions, a sentence on how its values become those of the key that is meant. A method `problems`, if there is
    one, checks fields against each other. It yields pairs of a dotted key and a sentence.

    Raises
    ------
    SpecError
        When an instance is made, naming all fields that are wrong.
    """
    if hasattr(cls, "problems"):

        def check(self: Any) -> None:
            problems = list(self.problems())
            if problems:
                raise PydanticCustomError("problems", "problems", {"problems": problems})

        cls.__post_init__ = check  # type: ignore[attr-defined]
    made: Any = pydantic.dataclasses.dataclass(
        frozen=True, config={"extra": "forbid", "arbitrary_types_allowed": True}
    )(cls)
    initialise = made.__init__

    @functools.wraps(initialise)
    def __init__(self: Any, *args: Any, **values: Any) -> None:
        try:
            initialise(self, *args, **values)
        except ValidationError as error:
            raise SpecError(*_lines(error, cls, {})) from None

    made.__init__ = __init__
    return cast("type[Record]", made)


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A positive number with its unit, the kind of knowledge behind it, and its source.

    Parameters
    ----------
    value : int or float
        Positive and finite.
    unit : str
        One of `UNITS`.
    kind : {"datasheet", "measured", "fitted", "assumed"}
        `"datasheet"`: the maker publishes it, or it follows from published numbers by the arithmetic that the
        source states. `"measured"`: somebody ran it or counted it. `"fitted"`: the source names the rows it
        was fitted on. `"assumed"`: the source gives the reasoning, and an assumption number if there is one.
    source : str
        Where the number is from.

    Raises
    ------
    SpecError
        A field is none of the above.

    Examples
    --------
    >>> Quantity(4.8e12, "bytes_per_s", "datasheet", "NVIDIA H200 datasheet").value
    4800000000000.0
    """

    value: int | float
    unit: str
    kind: Kind
    source: str

    def __post_init__(self) -> None:
        number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not number or not math.isfinite(self.value) or self.value <= 0:
            raise SpecError(
                f"value={brief(self.value)} (type {type(self.value).__name__}): expected a positive, finite number"
            )
        if self.unit not in UNITS:
            raise SpecError(f"unit={brief(self.unit)}: expected one of {', '.join(UNITS)}")
        check_provenance(self.kind, self.source)


def check_provenance(kind: object, source: object) -> None:
    """Reject an unknown kind of knowledge and an empty source.

    Raises
    ------
    SpecError
        `kind` is not one of `KINDS`, or `source` is not text.
    """
    if kind not in KINDS:
        raise SpecError(f"kind={brief(kind)}: expected one of {', '.join(KINDS)}")
    if not isinstance(source, str) or not source.strip():
        raise SpecError(f"source={brief(source)}: expected text that says where this is from")
    if not source.isprintable():
        raise SpecError(f"source={brief(source)}: expected text without characters that do not print")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as a mapping; the one place that parses TOML.

    Raises
    ------
    SpecError
        The file cannot be read, or is not TOML.
    """
    return cast("dict[str, Any]", _read(path, "TOML", tomllib.loads))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    SpecError
        The file cannot be read, or is not JSON.
    """
    return _read(path, "JSON", json.loads)


def _read(path: Path, language: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(read_text(path, error=SpecError))
    except (ValueError, RecursionError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{path}: cannot be read as {language}: {error}") from error


def read_record(kind: type[Record], path: Path) -> Record:
    """Read a TOML file as a record.

    Parameters
    ----------
    kind : type
        A `record`.
    path : Path

    Raises
    ------
    SpecError
        All problems of the file, one per line, each with the file, the key, the value and what was expected.
    """
    return load_record(kind, read_toml(path), where=str(path))


def load_record(kind: type[Record], document: Mapping[str, Any], *, where: str = "") -> Record:
    """Take a mapping, such as a parsed TOML file, for a record.

    Parameters
    ----------
    kind : type
        A `record`.
    document : mapping
    where : str
        What each problem begins with, such as the name of the file.

    Raises
    ------
    SpecError
        All problems of the document, one per line.
    """
    values, paths, lines = _flat(kind, document)
    for name, value in values.items():
        values[name] = _meant(hints(kind)[name], value, (name,), paths, lines)
    loaded: Record | None = None
    try:
        loaded = adapter(cast("Any", kind)).validate_python(values)
    except ValidationError as error:
        lines += [line for line in _lines(error, kind, paths) if not _follows(line, lines)]
    if lines or loaded is None:
        prefix = f"{where}: " if where else ""
        raise SpecError(*(prefix + line for line in lines))
    return loaded


@functools.cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """The checks of a record, built once."""
    return TypeAdapter(kind)


def _follows(line: str, lines: list[str]) -> bool:
    """Say whether a missing key follows from another problem: a near key that is unknown, or a missing table."""
    key, _, text = line.partition(": ")
    if not text.startswith("missing"):
        return False
    table, _, name = key.rpartition(".")
    return any(
        (earlier.startswith(f"{table}.") or not table) and f"(did you mean {name}?)" in earlier
        for earlier in lines
    ) or any(earlier.startswith((f"{table}: missing", f"{table}=")) for earlier in lines)


Place = tuple[int | str, ...]
"""Where a value stands in a document: a field, and then keys and numbers of entries."""


def _flat(kind: type, document: Mapping[str, Any]) -> tuple[dict[str, Any], dict[Place, str], list[str]]:
    """Take the fields of a record out of their sections.

    Returns the values by field, the dotted key of places whose key is another than theirs, and the problems of keys and
    sections.
    """
    fields = {name: declaration(hint).section for name, hint in hints(kind).items()}
    sections = dict.fromkeys(section for section in fields.values() if section)
    paths: dict[Place, str] = {(name,): f"{section}.{name}" for name, section in fields.items() if section}
    at_top = [name for name, section in fields.items() if not section]
    keys = (*at_top, *sections)
    lines = [_unknown(name, "", keys, kind) for name in document if name not in keys]
    values = {name: document[name] for name in at_top if name in document}
    slips = _slips(document, at_top)
    for section in sections:
        names = [name for name in fields if fields[name] == section]
        if section not in document:
            needed = any(default_of(kind, name) is dataclasses.MISSING for name in names)
            lines += [f"{section}: missing; this table is required"] if needed else []
            continue
        table = document[section]
        if not isinstance(table, Mapping):
            lines.append(f"{section}={brief(table)}: expected a table")
            continue
        lines += [_unknown(name, section, names, kind) for name in table if name not in names]
        values |= {name: value for name, value in table.items() if name in names}
        slips |= {key: (f"{section}.{name}", value) for key, (name, value) in _slips(table, names).items()}
    # The value of a misspelt key is checked as that of the key that was meant, so that one run names all problems.
    for key, (path, value) in slips.items():
        values[key], paths[(key,)] = value, path
    return values, paths, lines


def _meant(hint: Any, value: Any, place: Place, paths: dict[Place, str], lines: list[str]) -> Any:
    """Take misspelt keys of tables in a value for those that were meant, so that one run names all problems.

    Unknown keys are removed, and each gets a line. `paths` gets the key as it is spelt, for problems of its value.
    """
    kind = plain_type(hint)
    parts = get_args(kind)
    if isinstance(value, list) and get_origin(kind) is tuple and parts:
        return [_meant(parts[0], entry, (*place, i), paths, lines) for i, entry in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping):
        return {key: _meant(parts[1], entry, (*place, key), paths, lines) for key, entry in value.items()}
    if kind is not Quantity and not is_record(kind):
        return value
    fields = {} if kind is Quantity else hints(kind)
    names = tuple(fields) or ("value", "kind", "source")
    key = _dotted(place, paths)
    lines += [_unknown(name, key, names, kind) for name in value if name not in names]
    found = {name: entry for name, entry in value.items() if name in names}
    for name, (spelt, entry) in _slips(value, names).items():
        found[name], paths[(*place, name)] = entry, f"{key}.{spelt}"
    return {
        name: _meant(fields[name], entry, (*place, name), paths, lines) if name in fields else entry
        for name, entry in found.items()
    }


def _dotted(place: Place, paths: Mapping[Place, str]) -> str:
    """The dotted key of a place, as the document spells it."""
    if not place or place in paths:
        return paths.get(place, "")
    before, last = _dotted(place[:-1], paths), place[-1]
    if isinstance(last, int):
        return f"{before}[{last}]"
    return f"{before}.{last}" if before else last


def _slips(table: Mapping[str, Any], names: Collection[str]) -> dict[str, tuple[str, Any]]:
    """Keys that are missing -> the near key that stands for them, and its value."""
    slips: dict[str, tuple[str, Any]] = {}
    for name, value in table.items():
        near = difflib.get_close_matches(name, names, n=1) if name not in names else []
        if near and near[0] not in table:
            slips.setdefault(near[0], (name, value))
    return slips


def _unknown(name: str, table: str, expected: Collection[str], kind: Any) -> str:
    synonyms, renamed = getattr(kind, "synonyms", {}), getattr(kind, "renamed", {})
    near = [synonyms[name]] if name in synonyms else difflib.get_close_matches(name, expected, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    meant = renamed.get(name, f"expected {', '.join(expected) or 'none'}")
    return f"{f'{table}.' if table else ''}{name}: unknown key{hint}; {meant}"


def _lines(error: ValidationError, kind: type, paths: Mapping[Place, str]) -> list[str]:
    """Turn what pydantic found into lines of ours: dotted key, value, what was expected."""
    lines: list[str] = []
    errors = error.errors(include_url=False)
    # What an unknown entry of a table holds says nothing.
    strange = {entry["loc"][:-1] for entry in errors if entry["loc"][-1:] == ("[key]",)}
    # Unknown keys first: a missing key with a near name follows from one.
    for entry in sorted(errors, key=lambda entry: entry["type"] not in UNKNOWN):
        loc = entry["loc"][:-1] if entry["loc"][-1:] == ("[key]",) else entry["loc"]
        if entry["loc"] is loc and any(loc[: len(unknown)] == unknown for unknown in strange):
            continue
        key = _dotted(loc, paths)
        if entry["type"] == "problems":
            for name, text in entry["ctx"]["problems"]:
                place = ".".join(part for part in (key, name) if part)
                lines.append(f"{place}: {text}" if place else text)
        elif entry["type"] in UNKNOWN or loc in strange:
            table, _, name = key.rpartition(".")
            lines.append(_unknown(name, table, _keys(kind, loc[:-1]), _type_at(kind, loc[:-1])))
        elif entry["type"] == "missing":
            line = f"{key}: missing; this key is required"
            lines += [] if _follows(line, lines) else [line]
        elif entry["type"] == "tuple_type" and is_record(_type_at(kind, (*loc, 0))):
            lines.append(f"{key}={brief(entry['input'])}: expected an array of tables, [[{key}]]")
        else:
            lines.append(f"{key}={brief(entry['input'])}: {_expected(entry)}")
    return lines


UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
EXPECTED = {
    "bool_type": "true or false",
    "string_type": "text",
    "string_pattern_mismatch": "text",
    "tuple_type": "a list",
    "dict_type": "a table",
    "mapping_type": "a table",
    "dataclass_type": "a table",
    "too_short": "at least one entry",
}
"""Type of an error of pydantic's -> what was expected, in words of ours."""


def _expected(entry: Any) -> str:
    context = entry.get("ctx", {})
    if entry["type"] == "literal_error":
        names = [name.strip("'") for name in context["expected"].replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(str(entry["input"]), names, n=1)
        return f"expected one of {', '.join(names)}{f'; did you mean {near[0]}?' if near else ''}"
    if "error" in context:
        return str(context["error"])
    if "problem" in context:
        return str(context["problem"])
    if context.get("pattern") == ID_PATTERN:
        return f"expected {ID_WORDS}"
    if entry["type"] in EXPECTED:
        return f"expected {EXPECTED[entry['type']]}"
    return str(entry["msg"])


def _problem(text: str) -> PydanticCustomError:
    return PydanticCustomError("problem", "{problem}", {"problem": text})


def hints(kind: Any) -> Mapping[str, Any]:
    """Types of the fields of a record, with their annotations."""
    return _hints(kind)


@functools.cache
def _hints(kind: Any) -> Mapping[str, Any]:
    types = get_type_hints(kind, include_extras=True)
    return {field.name: types[field.name] for field in dataclasses.fields(kind)}


def declaration(hint: Any) -> About:
    """What `Annotated` declares of a type; nothing if it declares nothing."""
    return next((part for part in getattr(hint, "__metadata__", ()) if isinstance(part, About)), About(""))


def about(kind: Any, name: str) -> About:
    """What is declared of a field: its meaning, and for a `Number` its unit and range."""
    return declaration(hints(kind)[name])


def names_of(kind: type, *, section: str | None = None, declared: type[About] = About) -> tuple[str, ...]:
    """Name the fields of a record that stand in a section, or all that are declared in a manner.

    Examples
    --------
    >>> @record
    ... class Chip:
    ...     cores: Annotated[int, Number("cores", "Cores of the chip.", section="chip", least=1)]
    >>> names_of(Chip, section="chip"), names_of(Chip, declared=Number)
    (('cores',), ('cores',))
    """
    return tuple(
        name
        for name, hint in hints(kind).items()
        if isinstance(declaration(hint), declared) and section in (None, declaration(hint).section)
    )


def default_of(kind: type, name: str) -> Any:
    """Default of a field, or `dataclasses.MISSING`."""
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a field, without annotations; several for a union."""
    if get_origin(hint) is Annotated:
        return _members(hint.__origin__)
    if get_origin(hint) in (Union, UnionType):
        return tuple(member for part in get_args(hint) for member in _members(part))
    return (hint,)


def plain_type(hint: Any) -> Any:
    """The type of a field without its annotations, `None` left out."""
    return next(member for member in _members(hint) if member is not NoneType)


def is_record(kind: Any) -> bool:
    """Whether a type is a `record`."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__")


def _type_at(kind: Any, loc: tuple[int | str, ...]) -> Any:
    """The type of a place of a document."""
    for part in loc:
        fits = plain_type(kind)
        if is_record(fits):
            kind = hints(fits)[str(part)]
        else:
            kind = get_args(fits)[0 if get_origin(fits) is tuple else 1]
    return plain_type(kind)


def _keys(kind: Any, loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Keys that a table of a document may have, by its place."""
    fits = _type_at(kind, loc)
    if fits is Quantity:
        return ("value", "kind", "source")
    if is_record(fits):
        return tuple(hints(fits))
    return allowed_names(get_args(fits)[0])


def allowed_names(hint: Any) -> tuple[str, ...]:
    """The names that a text may be."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return next((part.names for part in getattr(hint, "__metadata__", ()) if isinstance(part, OneOf)), ())
