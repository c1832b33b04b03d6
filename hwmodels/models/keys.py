"""Keys of a `config.json`: strict types, defaults that are reported, and their values in each model layer."""

from collections.abc import Callable, Mapping
from typing import Any

from hwmodels.models.expressions import evaluate
from hwmodels.models.families import Family, blocks, table
from nmsim.errors import SpecError, brief

MOST_LAYERS = 10_000
MOST = 10**15
"""More of anything is a slip."""
LAYER_TYPES: Mapping[str, str] = {
    "full_attention": "full_attention",
    "sliding_attention": "sliding_attention",
    "chunked_attention": "chunked_attention",
    "linear_attention": "linear_attention",
    "indexed_attention": "full_attention",
    "conv": "conv",
    "recurrent": "recurrent",
    "mlp": "mlp",
    "moe": "moe",
    "attention": "full_attention",
    "global": "full_attention",
    "local": "sliding_attention",
    "mamba": "linear_attention",
    "M": "linear_attention",
    "*": "full_attention",
    "-": "mlp",
    "E": "moe",
}  # fmt: skip
"""What an entry of `layer_types` or of a pattern means."""
FEED_TYPES: Mapping[str, bool] = {"dense": False, "sparse": True, "moe": True}
MISSING = object()


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST


def _is_list_of(value: Any, valid: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(valid(each) for each in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MOST


KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "size": (lambda value: _is_int(value, 1), "a whole number from 1"),
    "sizes": (
        lambda value: _is_int(value, 1) or _is_list_of(value, lambda each: _is_int(each, 1)),
        "a whole number from 1, or a list of them, one per model layer",
    ),
    "count": (lambda value: _is_int(value, 0), "a whole number from 0"),
    "counts": (
        lambda value: _is_int(value, 0) or _is_list_of(value, lambda each: _is_int(each, 0)),
        "a whole number from 0, or a list of them, one per model layer",
    ),
    "index": (lambda value: _is_int(value, -1), "a whole number from -1"),
    "factors": (
        lambda value: _is_number(value) or _is_list_of(value, _is_number),
        "a positive number, or a list of them, one per model layer",
    ),
    "flag": (lambda value: isinstance(value, bool), "true or false"),
    "text": (lambda value: isinstance(value, str) and bool(value), "text"),
    "types": (
        lambda value: _is_list_of(value, lambda each: isinstance(each, str)),
        "a list of text, one per model layer",
    ),
    "pattern": (
        lambda value: bool(value) and _is_list_of(value, lambda each: isinstance(each, str)),
        "a list of text",
    ),
    "indices": (
        lambda value: _is_list_of(value, lambda each: _is_int(each, 0)),
        "a list of whole numbers from 0",
    ),
    "freq": (
        lambda value: _is_int(value, 1) or _is_list_of(value, lambda each: _is_int(each, 0) and each <= 1),
        "a whole number from 1, or a list of 0 and 1, one per model layer",
    ),
    "rank": (lambda value: value == "auto" or _is_int(value, 1), 'a whole number from 1, or "auto"'),
}
"""Kind of a key -> whether a value is one, and what is expected. `families.toml` explains each."""
PER_LAYER = ("sizes", "counts", "types", "factors", "freq")
EMPTY: Mapping[str, Any] = {"indices": []}


class Keys:
    """The keys of one text part, with names and defaults of its family.

    Parameters
    ----------
    config : mapping
        The text part of a `config.json`.
    family : Family
    where : str
        What each error begins with.
    """

    def __init__(self, config: Mapping[str, Any], family: Family, *, where: str) -> None:
        self.config = config
        self.family = family
        self.where = where
        self.defaults_used: dict[str, Any] = {}
        self._raw: dict[str, Any] = {}
        self._values: dict[tuple[str, int], Any] = {}
        self._kinds: dict[str, str] = table()["keys"]
        self._blocks = blocks()

    def error(self, problem: str) -> SpecError:
        """Make an error that begins with the place of the configuration."""
        return SpecError(f"{self.where}: {problem}")

    def named(self, name: str) -> str:
        """The name of a key as the file spells it, for errors."""
        names = self.family.keys.get(name, (name,))
        return next((each for each in names if self._at(each) is not MISSING), names[0])

    def _at(self, path: str) -> Any:
        """A value of the file; a dot in a name leads into a nested table."""
        found: Any = self.config
        for part in path.split("."):
            if not isinstance(found, Mapping):
                raise self.error(f"{path.split('.')[0]}: expected an object, got {brief(found)}")
            found = found.get(part, MISSING)
            if found is MISSING:
                return MISSING
        return found

    def raw(self, name: str) -> Any:
        """Take a key out of the file, checked: `MISSING` if it is not there, or null and its default is no number."""
        if name not in self._raw:
            self._raw[name] = self._read(name)
        return self._raw[name]

    def _read(self, name: str) -> Any:
        kind = self._kinds[name]
        valid, expected = KINDS[kind]
        value, spelled = MISSING, name
        for other in self.family.keys.get(name, (name,)):
            found = self._at(other)
            if found is MISSING:
                continue
            if found is None:
                found = self._null(name, other, kind)
                if found is MISSING:
                    continue
            elif not valid(found):
                raise self.error(f"{other}={brief(found)}: expected {expected}")
            # Two names of one key may both stand in a file, if they agree.
            if value is not MISSING and found != value:
                raise self.error(
                    f"{spelled}={brief(value)} and {other}={brief(found)} are one key: expected equal values"
                )
            value, spelled = found, other
        if isinstance(value, list) and kind in PER_LAYER:
            self._check_length(spelled, value)
        return MISSING if value == "auto" and kind == "rank" else value

    def _null(self, name: str, spelled: str, kind: str) -> Any:
        """What null means: 0 for a count, absent if the default is derived or none, else it is refused."""
        default = self.family.defaults.get(name)
        if kind in ("count", "counts"):
            return 0
        if kind == "flag":
            if default is None:
                return False
        elif default is None or isinstance(default, str) or kind not in ("size", "sizes"):
            return MISSING
        raise self.error(
            f"{spelled}=null: expected {KINDS[kind][1]}; leave the key out for the class default, {default}"
        )

    def _check_length(self, spelled: str, values: list[Any]) -> None:
        depth = self.depth
        if len(values) != depth:
            raise self.error(
                f"{spelled}: {len(values)} entries, expected {depth}, one per model layer (num_hidden_layers)"
            )

    @property
    def depth(self) -> int:
        """Model layers."""
        if self.family.name == "nemotron_h":
            # The pattern says how many there are; the number beside it must agree.
            lists = [
                self._at(name) for name in ("hybrid_override_pattern", "layers_block_type", "layer_types")
            ]
            known = next((len(each) for each in lists if isinstance(each, str | list)), 0)
            stated = self.raw("num_hidden_layers")
            if known and stated not in (MISSING, known):
                raise self.error(
                    f"num_hidden_layers={stated}: its pattern of layers has {known}; expected equal numbers"
                )
            if known:
                return known
        depth = self("num_hidden_layers")
        if depth > MOST_LAYERS:
            raise self.error(f"{self.named('num_hidden_layers')}={depth}: expected at most {MOST_LAYERS}")
        return int(depth)

    def __call__(self, name: str, i: int = 0) -> Any:
        """The value of a name in model layer `i`: a key, a derived key, a block, `layer_type`, `sparse`, or `i`."""
        if (name, i) not in self._values:
            self._values[name, i] = self._value(name, i)
        return self._values[name, i]

    def evaluate(self, text: str, i: int = 0) -> Any:
        """The value of an expression in model layer `i`."""
        return evaluate(text, lambda name: self(name, i))

    def _value(self, name: str, i: int) -> Any:
        if name == "i":
            return i
        if name in self._blocks:
            return (name,)
        if name == "layer_type":
            return self._layer_type(i)
        if name == "sparse":
            return self._sparse(i)
        if name in self.family.derived:
            return self.evaluate(self.family.derived[name], i)
        kind = self._kinds[name]
        value = self.raw(name)
        if value is MISSING:
            value = self._default(name, kind, i)
        if kind == "freq":
            return value[i] == 1 if isinstance(value, list) else i % value == 0
        return value[i] if isinstance(value, list) and kind in PER_LAYER else value

    def _default(self, name: str, kind: str, i: int) -> Any:
        """Take the default of the class, and keep it for the notes."""
        if name not in self.family.defaults:
            if kind in EMPTY:
                return EMPTY[kind]
            if kind == "flag":
                return False
            raise self.error(
                f"{self.named(name)}: missing, and the class of model_type {self.family.name} has no default; "
                "this key is required"
            )
        default = self.family.defaults[name]
        value = self.evaluate(default, i) if isinstance(default, str) else default
        self.defaults_used.setdefault(name, value)
        return value

    def _layer_type(self, i: int) -> str:
        listed = self.raw("layer_types")
        text = self.evaluate(self.family.layer_type, i) if listed is MISSING else listed[i]
        if text not in LAYER_TYPES:
            raise self.error(
                f"{self.named('layer_types')}[{i}]={brief(text)}: unknown; expected one of {', '.join(LAYER_TYPES)}"
            )
        return LAYER_TYPES[text]

    def _sparse(self, i: int) -> bool:
        listed = self.raw("mlp_layer_types")
        if listed is MISSING:
            return bool(self.evaluate(self.family.sparse, i))
        if listed[i] not in FEED_TYPES:
            raise self.error(
                f"mlp_layer_types[{i}]={brief(listed[i])}: expected one of {', '.join(FEED_TYPES)}"
            )
        return FEED_TYPES[listed[i]]
