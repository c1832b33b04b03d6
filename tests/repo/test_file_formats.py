"""Every file that ships follows the JSON Schema of its format, and what readers refuse, the schema refuses too."""

import json
import tomllib
from pathlib import Path

import pytest

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [
    *(("machine", path) for path in (ROOT / "hwmodels/machine/specs").glob("*.toml")),
    ("machine", ROOT / "validate/data/measured/epyc-milan-2core.toml"),
    *(("core", path) for path in (ROOT / "hwmodels/tensorcore/presets").glob("*.toml")),
    *(("campaign", path) for path in (ROOT / "kernels/measure/campaigns").glob("*.toml")),
    ("space", ROOT / "hwmodels/data/example-space.toml"),
    ("technology", ROOT / "hwmodels/silicon/technology.toml"),
    ("budget", ROOT / "validate/judge/budget.toml"),
    ("fitted", ROOT / "hwmodels/data/fitted.toml"),
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
