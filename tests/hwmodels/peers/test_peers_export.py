"""Input files for other simulators: what each takes, described here from its sources; SCALE-Sim runs them if it is there."""

import configparser
import csv
import json
import os
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml

from hwmodels import load_core
from hwmodels.peers import PEERS, export_peer, scalesim_cycles
from nmsim import SparseFormat, compress
from nmsim.case import GemmShape
from nmsim.errors import NmsimError

jsonschema = pytest.importorskip("jsonschema")

SCALESIM_PYTHON = os.environ.get("NMSIM_SCALESIM_PYTHON")
"""Interpreter of an environment with scalesim==3.0.0 and numpy below 2.3."""
PRODUCTS = [("fc1", GemmShape(64, 256, 256)), ("fc2", GemmShape(32, 384, 512))]
FORMATS = ["2:4/index", "2:4/bitmask", "8:16/combinatorial", "8:16/bitmask", "4:8/index", "16:32/joint:4"]

WORD = {"type": "integer", "minimum": 1}


def closed(required, **optional):
    """An object with these keys and no others."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def listed(items):
    """A list of at least one."""
    return {"type": "array", "items": items, "minItems": 1}


def sparse_schema(dash, target, formats, width=WORD):
    """`sparse_optimizations` in either dialect of Timeloop."""
    bits = {f"metadata{dash}word{dash}bits": width, f"payload{dash}word{dash}bits": {"type": "integer"}}
    rank = closed({"format": {"enum": formats}}, **bits)
    space = closed({"name": {"const": "A"}, "ranks": listed(rank)})
    option = closed({"target": {"enum": ["B", "Z"]}, f"condition{dash}on": {"const": ["A"]}})
    action = closed({"type": {"enum": ["gating", "skipping"]}, "options": listed(option)})
    return closed(
        {
            target: {"enum": ["DRAM", "SMEM"]},
            f"representation{dash}format": closed({f"data{dash}spaces": listed(space)}),
        },
        **{f"action{dash}optimization": listed(action)},
    )


def problem_schema(dash, **version):
    """`problem`: the shape of a product and its instance."""
    projection = listed(listed(listed({"enum": ["M", "N", "K"]})))
    space = closed(
        {"name": {"enum": ["A", "B", "Z"]}, "projection": projection}, **{f"read{dash}write": {"const": True}}
    )
    shape = closed(
        {
            "name": {"type": "string"},
            "dimensions": {"const": ["M", "N", "K"]},
            f"data{dash}spaces": listed(space),
        }
    )
    density = closed(
        {"distribution": {"const": "fixed-structured"}, "density": {"exclusiveMinimum": 0, "maximum": 1}}
    )
    return closed(
        version
        | {"shape": shape, "instance": closed(dict.fromkeys("MNK", WORD), densities=closed({"A": density}))}
    )


LOCAL = closed({"name": {"type": "string"}, "class": {"type": "string"}, "attributes": {"type": "object"}})
V4 = {"version": {"const": 0.4}}
V4_NODE = {"oneOf": [
    closed({"!": {"const": "Container"}, "name": {"type": "string"}}, spatial={"type": "object"}),
    closed({"!": {"const": "Component"}} | {key: {} for key in ("name", "class", "attributes")}),
]}  # fmt: skip
AF_RANK = closed(
    {"format": {"enum": ["UOP", "CP", "B", "RLE"]}},
    metadata_word_bits={"type": "number", "exclusiveMinimum": 0},
    payload_word_bits={"type": "integer"},
    flattened_rank_ids={"type": "array"},
)
AF_ACTION = closed(
    {"name": {"enum": ["read", "write", "compute"]}, "energy": {"type": "number"}},
    throughput={"type": "number"},
)
AF_NODE = closed(
    {"!": {"enum": ["Memory", "Compute"]}, "name": {"type": "string"}, "actions": listed(AF_ACTION)},
    size={},
    leak_power={"type": "number"},
    area={"type": "number"},
    tensors=closed({"keep": {"type": "string"}}, may_keep={"type": "string"}),
    representation_format=listed(closed({"name": {"type": "string"}, "ranks": listed(AF_RANK)})),
    action_optimization=listed(
        closed(
            {
                "kind": {"enum": ["gating", "skipping", "position_skipping"]},
                "target": {},
                "condition_on": listed({}),
            }
        )
    ),
)
AF_WORKLOAD = closed(
    {
        "iteration_space_shape": {"type": "object"},
        "bits_per_value": closed({"All": WORD}),
        "einsums": listed(
            closed(
                {
                    "name": {"type": "string"},
                    "tensor_accesses": listed(
                        closed({"name": {}, "projection": listed({"type": "string"})}, output={"const": True})
                    ),
                }
            )
        ),
    },
    densities={"type": "object"},
    density_distributions={"type": "object"},
)


def schema_of(peer, name):
    """What a simulator takes in a file, as plainly as its sources say it."""
    if peer == "accelforge":
        kinds = {"arch": closed({"nodes": listed(AF_NODE)}), "workload": AF_WORKLOAD}
        return closed({name.split(".")[0]: kinds[name.split(".")[0]]})
    if peer == "timeloop":
        sparse = closed(V4 | {"targets": listed(sparse_schema("_", "target", ["CP", "B", "RLE", "UOP"]))})
        return closed(
            {"architecture": closed(V4 | {"nodes": listed(V4_NODE)}), "problem": problem_schema("_", **V4)},
            sparse_optimizations=sparse,
        )
    if name == "arch.yaml":
        branch = closed({"name": {"type": "string"}, "local": listed(LOCAL)}, subtree={"type": "array"})
        return closed({"architecture": closed({"version": {"const": 0.3}, "subtree": listed(branch)})})
    if name.endswith(".problem.yaml"):
        return closed({"problem": problem_schema("-")})
    targets = listed(sparse_schema("-", "name", ["UOP", "CP", "RLE", "B", "UB"]))
    return closed({"sparse_optimizations": closed({"targets": targets})})


class Loader(yaml.SafeLoader):
    """YAML with tags; a tag becomes the entry "!" of its mapping."""


Loader.add_multi_constructor(
    "!", lambda loader, tag, node: {"!": tag} | loader.construct_mapping(node, deep=True)
)


def load(path):
    """Read a file of either dialect."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)


@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer != "scalesim"])
@pytest.mark.parametrize("format", [*FORMATS, None])
def test_the_files_are_what_the_simulator_takes(tmp_path, peer, format):
    done = export_peer(tmp_path / peer, PRODUCTS, peer=peer, format=format)
    names = [name for name in done.files if name.endswith(".yaml")]
    assert (
        len(names) == {"sparseloop": 1 + 2 * (1 + (format is not None)), "timeloop": 2, "accelforge": 2}[peer]
    )
    for name in names:
        document = json.loads(json.dumps(load(tmp_path / peer / name)))
        errors = [
            error.message
            for error in jsonschema.Draft202012Validator(schema_of(peer, name)).iter_errors(document)
        ]
        assert errors == [], name


def test_a_schema_refuses_another_key(tmp_path):
    export_peer(tmp_path / "x", PRODUCTS, peer="timeloop", format="2:4/index")
    document = json.loads(json.dumps(load(tmp_path / "x/fc1.yaml")))
    document["sparse_optimizations"]["targets"][0]["representation-format"] = {}
    assert list(jsonschema.Draft202012Validator(schema_of("timeloop", "fc1.yaml")).iter_errors(document))


@pytest.mark.parametrize("format", FORMATS)
def test_metadata_bits_are_those_of_an_encoded_tensor(tmp_path, format):
    """Rows of weights times non-zeros of a row times the written width are the bits of the stream, on real weights."""
    shape = PRODUCTS[0][1]
    weight = np.random.default_rng(0).standard_normal((shape.N, shape.K)).astype(np.float16)
    stream_bits = compress(weight, format).metadata_payload_bits
    parsed = SparseFormat.parse(format)
    export_peer(tmp_path / "x", PRODUCTS[:1], peer="accelforge", format=format)
    ranks = load(tmp_path / "x/arch.yaml")["arch"]["nodes"][0]["representation_format"][0]["ranks"]
    last = ranks[-1]
    counted = shape.K if last["format"] == "B" else shape.K * parsed.pattern.density
    assert Fraction(last["metadata_word_bits"]) * shape.N * counted == stream_bits


@pytest.mark.parametrize("format", FORMATS)
def test_timeloop_does_not_round_the_width_of_metadata(tmp_path, format):
    """It takes the next width that divides the metadata memory, so the memory is a multiple of the width."""
    export_peer(tmp_path / "x", PRODUCTS, peer="timeloop", format=format)
    document = load(tmp_path / "x/fc1.yaml")
    (rank,) = document["sparse_optimizations"]["targets"][0]["representation_format"]["data_spaces"][0][
        "ranks"
    ][1:]
    memories = [node for node in document["architecture"]["nodes"] if node["name"] in ("DRAM", "SMEM")]
    for memory in memories:
        assert memory["attributes"]["metadata_storage_width"] % rank["metadata_word_bits"] == 0
        assert memory["attributes"]["metadata_storage_width"] >= 64


def test_the_page_beside_says_where_bits_differ(tmp_path):
    done = export_peer(tmp_path / "x", PRODUCTS, peer="sparseloop", format="8:16/combinatorial")
    assert (done.bits_per_value["fc1"], done.written_bits["fc1"]) == (Fraction(7, 4), 2)
    page = (tmp_path / "x/README.md").read_text()
    assert "| fc1 | 64, 256, 256 | 8:16/combinatorial | 1.75 | 2 |" in page
    assert "whole bits only" in page


def test_scalesim_files_hold_the_core_and_the_shapes(tmp_path):
    core = load_core("nvidia-like-2x4")
    export_peer(tmp_path / "x", PRODUCTS, peer="scalesim", format="2:4", core=core, dense=["fc2"])
    config = configparser.ConfigParser()
    config.read(tmp_path / "x/scale.cfg")
    height, width = (int(config["architecture_presets"][key]) for key in ("ArrayHeight", "ArrayWidth"))
    assert height * width == core.array_rows * core.array_cols * core.array_depth
    lines = (tmp_path / "x/topology.csv").read_text().splitlines()
    assert lines == ["Layer Name, M, N, K, Sparsity,", "fc1,64,256,256,2:4,", "fc2,32,384,512,1:1,"]
    assert (tmp_path / "x/layout.csv").read_text().endswith(",\n")


@pytest.mark.skipif(
    not SCALESIM_PYTHON, reason="NMSIM_SCALESIM_PYTHON names no environment with scalesim==3.0.0"
)
@pytest.mark.parametrize("format", ["2:4/index", "4:8", "1:4", None])
def test_scalesim_runs_the_files(tmp_path, format):
    """Cycles of each layer, without what it fetches in advance, are those of the closed form."""
    products = [("fc1", GemmShape(32, 128, 128)), ("fc2", GemmShape(16, 256, 64))]
    export_peer(tmp_path / "x", products, peer="scalesim", format=format)
    options = f"-c scale.cfg -t topology.csv -l layout.csv -i gemm -p {tmp_path / 'results'}"
    subprocess.run(
        [SCALESIM_PYTHON, "-m", "scalesim.scale", *options.split()],
        cwd=tmp_path / "x",
        capture_output=True,
        check=True,
        timeout=300,
    )
    report = next(Path(tmp_path / "results").rglob("COMPUTE_REPORT.csv")).read_text().splitlines()
    rows = list(csv.reader(report, skipinitialspace=True))
    place = rows[0].index("Total Cycles")
    expected = [
        scalesim_cycles(
            shape, format.split("/")[0] if format else None, array_rows=16, array_columns=128
        ).cycles
        for _, shape in products
    ]
    assert [int(float(row[place])) for row in rows[1:]] == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"peer": "stonne"}, "expected one of sparseloop, timeloop, accelforge, scalesim"),
        ({"products": []}, "at least one"),
        ({"products": [*PRODUCTS, PRODUCTS[0]]}, "a name of its own"),
        ({"core": "nothing"}, "nothing"),
        ({"format": "2;4"}, "2;4"),
        ({"dtype": "int3"}, "int3"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, expected):
    given = {"products": PRODUCTS, "peer": "scalesim", "format": "2:4"} | arguments
    with pytest.raises(NmsimError, match=expected) as error:
        export_peer(tmp_path / "x", given.pop("products"), **given)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x").exists()


def test_the_verb_writes_shapes_and_models(nmsim, tmp_path):
    code, out, _ = nmsim(
        "export", "512,4096,4096", "-p", "8:16/combinatorial", "--to", "timeloop", "-o", tmp_path / "x"
    )
    assert code == 0
    assert "1.75 encoded, 2 in the files" in out
    code, out, _ = nmsim("export", "-m", "llama-3.1-8b", "--to", "scalesim", "-o", tmp_path / "y", "--json")
    answer = json.loads(out)
    assert code == 0
    assert "topology.csv" in answer["files"]
    assert "lm_head" not in answer["metadata_bits_per_value"]
    for arguments in (
        ("1,2,3",),
        ("-o", tmp_path / "z"),
        ("1,2,3", "-m", "llama-3.1-8b", "-o", tmp_path / "z"),
    ):
        code, _, err = nmsim("export", *arguments)
        assert code == 2
        assert "expected" in err
