"""Dump thousands of results with digests, so that two commits can be compared: nothing may change by accident.

`python docs/tools/figures/results.py OUT.csv` writes one line per result: the question, a digest, and a short value.
`python docs/tools/figures/results.py OLD.csv NEW.csv` counts the results of each kind that are the same. It names the others.
Run both commits on one machine: the last digit of a logarithm may depend on the processor.
"""

import csv
import dataclasses
import hashlib
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import hwmodels
from hwmodels.silicon.area import area
from hwmodels.silicon.energy import energy
from nmsim import Case, GemmShape, Pattern, SparseFormat, compress, decompress, encodings
from nmsim.errors import NmsimError
from nmsim.packing import POLICIES

REFUSED = "refused"
PATTERNS = ("1:4", "2:4", "4:8", "8:16", "16:32", "3:7", "5:5", "4:256")
SHAPES = ((1, 4096, 4096), (3, 1000, 777), (16, 14336, 4096), (64, 512, 8192), (4096, 4096, 14336))
NAMES = (*encodings.names(), "gap:2", "joint:3")
Result = tuple[str, Any]


def tensors() -> Iterator[Result]:
    """Bytes of values and metadata, and the round trip, of ragged tensors in every format."""
    rng = np.random.default_rng(0)
    drawn = [rng.standard_normal((5, k)).astype(dtype) for k in (31, 64, 200) for dtype in ("f2", "f4", "f8")]
    for (place, x), parts in itertools.product(
        enumerate(drawn), itertools.product(PATTERNS, NAMES, POLICIES)
    ):
        form = "/".join(parts)
        try:
            packed = compress(x, form)
            answer: Any = (packed.values.tobytes(), packed.metadata.tobytes(), decompress(packed).tobytes())
        except NmsimError:
            answer = REFUSED
        yield f"tensor {place} {form}", answer


def cases(dtypes: tuple[str, ...]) -> Iterator[Case]:
    """Dense and sparse products, both operands, in formats of several patterns and encodings."""
    forms = [None, *(f"{p}/{e}" for p in PATTERNS[:5] for e in ("bitmask", "index", "combinatorial"))]
    for shape, dtype, form in itertools.product(SHAPES, dtypes, forms):
        for operand in ("weights", "activations") if form else ("weights",):
            yield Case(GemmShape(*shape), form, dtype=dtype, sparse_operand=operand)  # type: ignore[arg-type]


def answered(question: Callable[..., Any], *asked: Any, **options: Any) -> Any:
    """An answer, or that there is none."""
    try:
        return question(*asked, **options)
    except NmsimError:
        return REFUSED


def predictions() -> Iterator[Result]:
    """Every field of the estimate and the bound, on every machine that ships."""
    for machine, case in itertools.product(hwmodels.machine_names(), cases(("fp16", "int8"))):
        yield f"prediction {machine} {case}", answered(hwmodels.predict, case, machine)


def cores() -> Iterator[Result]:
    """Cycles in closed form, energy and area of every core that ships."""
    for name in hwmodels.core_names():
        yield f"area {name}", answered(area, name)
        for case in cases(("int8", "fp16")):
            yield f"core {name} {case}", answered(hwmodels.predict_core, case, name)
            yield f"energy {name} {case}", answered(energy, case, name)


def simulations() -> Iterator[Result]:
    """Simulated cycles and actions of small products on every core that ships."""
    for name, pattern, tokens in itertools.product(hwmodels.core_names(), PATTERNS[:5], (1, 40, 130)):
        core = hwmodels.load_core(name)
        form = SparseFormat.parse(pattern, encoding=core.encodings[0]) if core.encodings else None
        case = Case(GemmShape(tokens, 96, 256), form, dtype=core.dtypes[0])
        yield f"simulation {name} {pattern} {tokens}", answered(hwmodels.simulate, case, core, seed=tokens)


def canonical(value: Any) -> str:
    """A text that differs if and only if a value does, to the last digit. Explanations are left out: words may change."""
    if isinstance(value, Pattern | SparseFormat):
        return str(value)
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{canonical(v)}" for k, v in value.items() if k != "explanation") + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(canonical(part) for part in value) + "]"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{value.tobytes().hex()}"
    return value.hex() if isinstance(value, float | bytes) else str(value)


def dump(path: Path) -> None:
    """Write all results."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        for kind in (tensors, predictions, cores, simulations):
            for name, value in kind():
                text = canonical(value)
                rows.writerow([name, hashlib.sha256(text.encode()).hexdigest()[:16], text[:80]])


def compare(old: Path, new: Path) -> int:
    """Print what is the same and what is not; the exit status is 1 if anything differs."""
    before, after = (
        {row[0]: row[1:] for row in csv.reader(path.open(encoding="utf-8"))} for path in (old, new)
    )
    same = Counter(name.split()[0] for name in before if before[name] == after.get(name))
    asked = Counter(name.split()[0] for name in before)
    for kind, count in asked.items():
        print(f"{kind}: {same[kind]} of {count} are the same")
    differ = [name for name in before | after if before.get(name) != after.get(name)]
    for name in differ[:20]:
        print(f"{name}\n  old {before.get(name)}\n  new {after.get(name)}")
    return 1 if differ else 0


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]]
    if len(paths) not in (1, 2):
        sys.exit(__doc__)
    sys.exit(compare(*paths) if len(paths) == 2 else dump(paths[0]))
