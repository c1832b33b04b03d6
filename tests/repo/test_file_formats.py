"""Every file that ships follows the JSON Schema of its format, and what readers refuse, the schema refuses too."""

import copy
import functools
import json
import random
import tomllib
from pathlib import Path

import pytest

from hwmodels.estimate.constants import FittedFile
from hwmodels.machine.libraries import LibrariesFile
from hwmodels.machine.spec import HardwareSpec
from hwmodels.silicon.technology import TechnologyFile
from hwmodels.sweeps import load_space
from hwmodels.tensorcore.record import SparseTensorCore
from kernels.language.campaign import LossCampaignFile
from kernels.measure.campaign import CampaignFile
from nmsim.errors import SpecError
from nmsim.support.schema import load_record
from validate.judge.budget import Budget

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [
    *(("machine", path) for path in (ROOT / "hwmodels/machine/specs").glob("*.toml")),
    ("machine", ROOT / "validate/data/measured/epyc-milan-2core.toml"),
    ("machine", ROOT / "validate/data/measured/epyc-genoa-2core.toml"),
    *(("core", path) for path in (ROOT / "hwmodels/tensorcore/presets").glob("*.toml")),
    *(("campaign", path) for path in (ROOT / "kernels/measure/campaigns").glob("*.toml")),
    *(("loss-campaign", path) for path in (ROOT / "kernels/language/campaigns").glob("*.toml")),
    ("space", ROOT / "hwmodels/data/example-space.toml"),
    ("technology", ROOT / "hwmodels/silicon/technology.toml"),
    ("budget", ROOT / "validate/judge/budget.toml"),
    ("fitted", ROOT / "hwmodels/data/fitted.toml"),
    ("libraries", ROOT / "hwmodels/data/libraries.toml"),
    ("machine-names", ROOT / "validate/data/machine_names.toml"),
]


def validator(name):
    schema = json.loads((ROOT / f"docs/reference/schemas/{name}.json").read_text(encoding="utf-8"))
    kind = jsonschema.Draft202012Validator
    kind.check_schema(schema)
    return kind(schema)


@pytest.mark.parametrize(("name", "path"), SHIPPED, ids=lambda part: getattr(part, "stem", part))
def test_what_ships_follows_its_schema(name, path):
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    assert [error.message for error in validator(name).iter_errors(document)] == []


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("chip", "cores", 131.5),
        ("chip", "clock_hz", 1.98),
        ("memory", "colour", 1),
        ("weight_column_skip", "supported", "yes"),
    ],
)
def test_a_schema_refuses_what_a_reader_refuses(section, key, value):
    document = tomllib.loads((ROOT / "hwmodels/machine/specs/h200.toml").read_text(encoding="utf-8"))
    entry = document[section].get(key)
    document[section][key] = entry | {"value": value} if isinstance(entry, dict) else value
    (error,) = validator("machine").iter_errors(document)
    assert next(iter(error.absolute_path)) == section


READERS = {
    "machine": (HardwareSpec, "hwmodels/machine/specs/h200-8x16.toml"),
    "core": (SparseTensorCore, "hwmodels/tensorcore/presets/flexible-8x16.toml"),
    "technology": (TechnologyFile, "hwmodels/silicon/technology.toml"),
    "campaign": (CampaignFile, "kernels/measure/campaigns/cpu.toml"),
    "loss-campaign": (LossCampaignFile, "kernels/language/campaigns/accuracy-quick.toml"),
    "budget": (Budget, "validate/judge/budget.toml"),
    "fitted": (FittedFile, "hwmodels/data/fitted.toml"),
    "libraries": (LibrariesFile, "hwmodels/data/libraries.toml"),
    "space": (None, "hwmodels/data/example-space.toml"),
}
SLIPS = [
    5,
    0,
    -1,
    1.5,
    True,
    "",
    "x",
    [],
    [1],
    ["a", 2],
    {},
    {"a": 1},
    [{}],
    float("nan"),
    10**400,
    {"value": 3},
]


def places(part, path=()):
    """Paths of all entries of a document."""
    entries = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


@pytest.mark.parametrize("name", READERS)
def test_a_spoiled_document_is_read_or_refused_by_name(name):
    """One entry of each document is another value, is gone, or has another key. No reader fails with another error."""
    kind, path = READERS[name]
    document = tomllib.loads((ROOT / path).read_text(encoding="utf-8"))
    paths, draw, texts = list(places(document)), random.Random(name), []
    for _ in range(150):
        spoiled = copy.deepcopy(document)
        *outer, key = draw.choice(paths)
        table = functools.reduce(lambda part, name: part[name], outer, spoiled)
        value = table.pop(key)
        if isinstance(table, dict) and (choice := draw.choice(("value", "key", "gone"))) != "gone":
            table[f"{key}x" if choice == "key" else key] = value if choice == "key" else draw.choice(SLIPS)
        elif isinstance(table, list):
            table.insert(key, draw.choice(SLIPS))
        try:
            load_record(kind, spoiled, where="file.toml") if kind else load_space(spoiled)
        except SpecError as error:
            texts.append(str(error))
    assert len(texts) > 40
    assert not [text for text in texts if "Input should" in text]
