"""The verbs pack, unpack and inspect, as a user types them."""

import json

import numpy as np
import pytest

from nmsim import load_file, prune, save_file


@pytest.fixture
def dense(tmp_path):
    path = tmp_path / "dense.safetensors"
    rng = np.random.default_rng(0)
    tensors = {
        "fc.weight": rng.standard_normal((8, 64)).astype(np.float16),
        "fc.bias": np.zeros(8, np.float16),
    }
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def test_pack_then_unpack(nmsim, tmp_path, dense):
    packed, again = tmp_path / "packed.safetensors", tmp_path / "again.safetensors"
    code, out, err = nmsim("pack", dense, "--pattern", "8:16", "--encoding", "combinatorial", "-o", packed)
    assert (code, err) == (0, "")
    said = f"packed 1 of 2 tensors with 98.5 % of the weights as 8:16/combinatorial into {packed}: 1.016 KiB dense, "
    assert out.startswith(said)
    assert "584 B packed (56.15 %), " in out
    assert "Left dense: 1.5 % of the weights" in out
    assert [line.split()[:4] for line in out.splitlines() if "named 'bias'" in line] == [
        ["bias", "1", "8", "1.5"]
    ]
    code, out, err = nmsim("unpack", packed, "-o", again)
    assert (code, err) == (0, "")
    assert out.startswith(f"unpacked 1 of 2 tensors into {again}: ")
    x = load_file(dense)["fc.weight"]
    assert np.array_equal(load_file(again)["fc.weight"], np.where(prune(x, "8:16"), x, np.float16(0)))


def test_pack_says_what_it_did_in_json(nmsim, tmp_path, dense):
    packed = tmp_path / "packed.safetensors"
    code, out, err = nmsim(
        "pack", dense, "-p", "2:4", "-e", "index", "--packing", "byte", "-o", packed, "--json"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found.pop("elapsed_s") > 0
    assert found == {
        "source": str(dense),
        "target": str(packed),
        "dense_bytes": 1040,
        "packed_bytes": 656,
        "packed_over_dense_ratio": 656 / 1040,
        "packed_weights_share": 512 / 520,
        "left_dense": [
            {
                "why": "bias",
                "tensors": 1,
                "weights_elems": 8,
                "dense_bytes": 16,
                "example": "bias: named 'bias'",
            }
        ],
        "tensors": [
            {
                "name": "fc.weight",
                "dtype": "F16",
                "shape": [8, 64],
                "dense_bytes": 1024,
                "values_bytes": 512,
                "metadata_bytes": 128,
                "kept_as_is": "",
                "group": "",
                "reason": "linear weight, [out, in]",
                "axis": 1,
                "weights_elems": 512,
                "total_bytes": 640,
            },
            {
                "name": "fc.bias",
                "dtype": "F16",
                "shape": [8],
                "dense_bytes": 16,
                "values_bytes": 16,
                "metadata_bytes": 0,
                "kept_as_is": "bias: named 'bias'",
                "group": "bias",
                "reason": "",
                "axis": None,
                "weights_elems": 8,
                "total_bytes": 16,
            },
        ],
    }
    code, out, _ = nmsim("unpack", packed, "-o", tmp_path / "again", "--json")
    assert code == 0
    assert {key: json.loads(out)[key] for key in ("dense_bytes", "packed_bytes")} == {
        "dense_bytes": 1040,
        "packed_bytes": 656,
    }


def test_inspect_in_json(nmsim, tmp_path, dense):
    code, out, err = nmsim(
        "inspect", dense, "--pattern", "2:4", "--patterns", "4:8,8:16", "-e", "bitmask,index", "--json"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    tried = [row for row in found["rows"] if row["pattern"]]
    assert [(row["pattern"], row["encoding"]) for row in tried] == [
        (pattern, encoding) for pattern in ("2:4", "4:8", "8:16") for encoding in ("bitmask", "index")
    ]
    assert tried[0]["total_bytes"] == 512 + 64
    assert tried[0]["total_over_dense_ratio"] == (512 + 64) / 1024
    assert 0.8 < tried[0]["energy_kept_ratio"] < 1
    assert found["totals"][0] == {
        "pattern": "2:4",
        "encoding": "bitmask",
        "packing": "bitstream",
        "dense_bytes": 1040,
        "total_bytes": 512 + 64 + 16,
        "total_over_dense_ratio": (512 + 64 + 16) / 1040,
    }
    packed = tmp_path / "packed.safetensors"
    nmsim("pack", dense, "-p", "2:4", "-e", "bitmask", "-o", packed)
    code, out, _ = nmsim("inspect", packed, "--json")
    stored = json.loads(out)
    assert code == 0
    assert stored["rows"][0]["energy_kept_ratio"] is None
    assert [total["total_bytes"] for total in stored["totals"]] == [512 + 64 + 16]


def test_inspect_as_a_table(nmsim, dense):
    code, out, err = nmsim("inspect", dense, "-p", "2:4")
    assert (code, err) == (0, "")
    row = next(line for line in out.splitlines() if "fc.weight" in line)
    assert row.split()[:3] == ["fc.weight", "2:4", "bitmask"]
    assert row.split()[-2:] == ["56.25", "%"]
    assert "F16 8x64" in out


def test_brackets_in_a_name_are_no_markup(nmsim, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"[red]weight": np.ones((4, 8))}, path)
    assert "[red]weight" in nmsim("inspect", path, "-p", "2:4", "--all")[1]


def test_selection_by_name(nmsim, tmp_path, dense):
    packed = tmp_path / "packed.safetensors"
    code, _, err = nmsim("pack", dense, "-p", "2:4", "-o", packed, "--exclude", "fc.*")
    assert code == 2
    assert "none of its 2 tensors (fc.weight, fc.bias) is chosen" in err
    code, _, err = nmsim("pack", dense, "-p", "2:4", "-o", packed, "--all", "--include", "*")
    assert (code, err) == (2, "nmsim: --all and --include ['*']: expected one of the two\n")
    assert list(tmp_path.iterdir()) == [dense]
    assert nmsim("pack", dense, "-p", "2:4", "-o", packed, "--all")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["pack", "{dense}", "-p", "9:8", "-o", "{out}"],
            "pattern 9:8: expected 1 <= N <= M (N counts what is kept)",
        ),
        (
            ["pack", "{dense}", "-p", "2:4", "-e", "bitmap", "-o", "{out}"],
            "encoding 'bitmap': expected one of",
        ),
        (
            ["pack", "{dense}", "-p", "2:4", "-e", "bitmask,index", "-o", "{out}"],
            "--encoding bitmask,index: expected one for a packed file, got 2",
        ),
        (
            ["pack", "{dense}", "-p", "dense", "-o", "{out}"],
            "--pattern dense: prunes nothing, expected a format such as 8:16/index",
        ),
        (
            ["pack", "{dense}", "-p", "2:4", "-o", "{dense}"],
            "{dense}: is the input itself, expected another file",
        ),
        (
            ["pack", "{dense}", "-p", "2:4", "-f", "-o", "{dense}"],
            "{dense}: is the input itself, expected another file",
        ),
        (["pack", "{none}", "-p", "2:4", "-o", "{out}"], "{none}: cannot be read: No such file or directory"),
        (
            ["pack", "{damaged}", "-p", "2:4", "-o", "{out}"],
            "{damaged}: byte 0: header length is 7, expected at most 3",
        ),
        (
            ["pack", "{dense}", "-p", "2:4", "-o", "{damaged}"],
            "{damaged}: exists already, expected a new name (or force, `--force` on the command line",
        ),
        (["unpack", "{dense}", "-o", "{out}"], "{dense}: has no __metadata__ entry 'nmsim_format'"),
        (["inspect", "{damaged}"], "{damaged}: byte 0: header length is 7"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_written(
    nmsim, tmp_path, dense, arguments, message
):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\7\0\0\0\0\0\0\0{} ")
    names = {"dense": dense, "out": tmp_path / "out", "none": tmp_path / "none", "damaged": damaged}
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, out, err = nmsim(*(argument.format(**names) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("nmsim: " + message.format(**names))
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_number_in_json_goes_without_its_unit(nmsim, dense):
    _, out, _ = nmsim("inspect", dense, "-p", "2:4", "--json")
    for record in (row for rows in ("rows", "totals") for row in json.loads(out)[rows]):
        for key, value in record.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and key != "axis":
                assert key.endswith(("_bytes", "_bits", "_elems", "_ratio")), key
