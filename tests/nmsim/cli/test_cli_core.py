import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from hwmodels import core_names, load_core
from hwmodels.silicon.area import area
from hwmodels.tensorcore.record import PRESET_FOLDER
from nmsim.support.toml import to_toml
from nmsim.units import short


def test_cores_are_listed(nmsim):
    code, out, _ = nmsim("core", "--list", "--json")
    assert code == 0
    assert [core["id"] for core in json.loads(out)] == core_names()


def test_one_case_names_its_limit_and_the_next_stage(nmsim):
    code, out, _ = nmsim("core", "4096,4096,4096", "-p", "8:16", "-e", "combinatorial")
    assert code == 0
    assert "shared memory to registers works" in out
    assert "next is multiplying" in out


def test_json_has_stages_traffic_and_a_range_of_energy(nmsim):
    code, out, _ = nmsim("core", "1,4096,4096", "-p", "dense,8:16", "--json")
    dense, sparse = json.loads(out)
    assert code == 0
    assert (dense["pattern"], dense["predicted_speedup_vs_dense"]) == ("dense", 1.0)
    assert sparse["cycles"] < dense["cycles"] == sparse["dense_cycles"]
    assert sparse["stage_cycles"]["dram"] <= sparse["cycles"]
    assert sparse["energy_joules_low"] < sparse["energy_joules"] < sparse["energy_joules_high"]
    assert sparse["traffic_bytes"]["dram_read_bytes"] < dense["traffic_bytes"]["dram_read_bytes"]


def test_what_a_core_does_not_take_is_left_out_aloud(nmsim):
    code, out, err = nmsim(
        "core", "64,512,512", "-c", "dense,flexible-8x16", "-p", "8:16", "-e", "index", "--json"
    )
    assert code == 0
    assert [row["core"] for row in json.loads(out)] == ["flexible-8x16"]
    assert "left out for 8:16: encoding 'index': dense decodes bitmask\n" in err
    code, _, err = nmsim("core", "64,512,512", "-c", "dense", "-p", "2:4,8:16", "-e", "index")
    assert code == 2
    assert err.startswith("left out for 2:4, 8:16: encoding 'index': dense decodes bitmask\nnmsim: nothing")
    assert "nothing left to predict" in err


def test_a_simulation_on_the_mask_of_a_checkpoint(nmsim, tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"up": rng.standard_normal((256, 512)).astype(np.float32)}, path)
    code, out, _ = nmsim(
        "core", "64,256,512", "-p", "8:16", "--simulate", "--weights", path, "--tensor", "up", "--json"
    )  # fmt: skip
    (row,) = json.loads(out)
    assert code == 0
    assert row["simulated_cycles"] >= row["cycles"]
    assert row["simulated_effectual_macs"] == 64 * 256 * 512 // 2
    narrow = {"up": rng.standard_normal((8, 32)).astype(ml_dtypes.bfloat16)}
    safetensors.numpy.save_file(narrow, path)
    assert nmsim("core", "1,8,32", "-p", "8:16", "--simulate", "-w", path, "-t", "up")[0] == 0


def test_cores_of_one_id_are_told_apart(nmsim, tmp_path):
    text = (PRESET_FOLDER / "flexible-8x16.toml").read_text()
    for name in ("one", "other"):
        (tmp_path / f"{name}.toml").write_text(text)
    files = [str(tmp_path / f"{name}.toml") for name in ("one", "other")]
    names = ",".join(["flexible-8x16", *files])
    code, out, _ = nmsim("core", "1,256,256", "-c", names, "-p", "8:16/bitmask", "--json")
    assert code == 0
    assert [row["core"] for row in json.loads(out)] == ["flexible-8x16", "one", "other"]
    code, _, err = nmsim("core", "1,256,256", "-c", "flexible-8x16,FLEXIBLE-8x16")
    assert code == 2
    assert "--core: flexible-8x16 comes twice; expected cores of different ids or file names" in err


def test_a_bandwidth_in_seconds_is_refused_with_what_was_meant(nmsim, tmp_path):
    path = tmp_path / "slip.toml"
    text = (PRESET_FOLDER / "flexible-8x16.toml").read_text()
    path.write_text(text.replace("dram_bytes_per_cycle = 2622.95", "dram_bytes_per_cycle = 136.5e9"))
    code, _, err = nmsim("core", "1,256,256", "-c", path)
    assert code == 2
    assert "did you mean bytes per second? Then give 1.365e+11 over clock_hz, 74.5902" in err


def test_two_sparse_operands(nmsim):
    code, out, _ = nmsim(
        "core", "64,128,512", "-c", "dual-sided-8x16", "-p", "8:16", "--other", "8:16", "--simulate", "--json"
    )  # fmt: skip
    (row,) = json.loads(out)
    assert code == 0
    assert row["simulated_effectual_macs"] == pytest.approx(64 * 128 * 512 / 4, rel=0.02)
    code, out, err = nmsim(
        "core", "64,128,512", "-c", "dual-sided-8x16", "-p", "dense,8:16", "--other", "8:16"
    )  # fmt: skip
    assert code == 0
    assert "M=64, N=128, K=512, sparse weights, other operand 8:16\n" in out
    assert "pairs that arrive evenly, and no bound" in out
    assert err == "left out: pattern dense: expected a pattern N:M beside --other 8:16\n"


def test_another_operand_that_is_dense_is_none(nmsim):
    plain = nmsim("core", "64,128,512", "-p", "dense,8:16/bitmask")
    assert nmsim("core", "64,128,512", "-p", "dense,8:16/bitmask", "--other", "dense") == plain
    assert "no bound" not in plain[1]
    products, areas = plain[1].split("Area that sparsity adds")
    rows = [line.split()[:2] for line in products.splitlines() if " flexible-8x16 " in line]
    assert rows == [["flexible-8x16", "dense"], ["flexible-8x16", "8:16/bitmask"]]
    assert areas.count(" flexible-8x16 ") == 5


def test_areas_are_shown_of_each_core_that_has_something_for_sparsity(nmsim):
    _, out, _ = nmsim(
        "core",
        "64,128,512",
        "-c",
        "dense,flexible-8x16,edge-npu-8x16",
        "-p",
        "8:16/bitmask",
        "--dtype",
        "int8",
    )
    areas = out.split("Area that sparsity adds")[1]
    shown = [line.split()[0] for line in areas.splitlines() if "-8x16 " in line]
    assert shown == ["flexible-8x16", "edge-npu-8x16"]
    share = 100 * area("flexible-8x16").overhead_of_cores.nominal
    assert f" {share:.1f} " in areas
    assert "Area" not in nmsim("core", "64,128,512", "-c", "dense", "-p", "dense")[1]


def test_energy_that_nobody_can_tell_is_left_open(nmsim, tmp_path):
    path = tmp_path / "small.toml"
    core = load_core("flexible-8x16")
    path.write_text(to_toml(dataclasses.replace(core, id="small", node_nm=2, decoder_latency_cycles=1)))
    code, out, err = nmsim("core", "64,128,512", "-c", path, "-p", "2:4,8:16")
    assert code == 0
    assert err.startswith("no energy: ")
    assert err.count("no energy") == 1
    assert "node_nm=2" in err
    assert [line.split()[-1] for line in out.splitlines() if " small " in line] == ["-", "-"]
    code, out, err = nmsim("core", "64,128,512", "-c", f"{path},flexible-8x16", "-p", "8:16", "--json")
    small, other = json.loads(out)
    assert code == 0
    assert small["energy_joules_low"] is small["energy_joules"] is small["energy_joules_high"] is None
    assert other["energy_joules"] > 0


@pytest.mark.parametrize(("shape", "unit"), [("64,128,512", "µJ"), ("4096,4096,4096", "mJ")])
def test_energy_is_told_in_a_unit_that_fits(nmsim, shape, unit):
    (row,) = json.loads(nmsim("core", shape, "-p", "8:16", "--json")[1])
    factor = {"µJ": 1e6, "mJ": 1e3}[unit]
    _, out, _ = nmsim("core", shape, "-p", "8:16")
    assert f"energy {unit}" in out
    ends = [short(row[f"energy_joules{end}"] * factor) for end in ("", "_low", "_high")]
    assert "{} ({}-{})".format(*ends) in out


def test_a_core_is_written_to_be_edited(nmsim, tmp_path):
    path = tmp_path / "mine.toml"
    code, _, _ = nmsim("core", "-c", "flexible-8x16", "--write", path)
    assert code == 0
    assert load_core(path) == load_core("flexible-8x16")
    code, _, err = nmsim("core", "--write", path)
    assert code == 2
    assert "exists already" in err
    path.write_text("mine")
    code, _, _ = nmsim("core", "-c", "dense", "--write", path, "--force")
    assert code == 0
    assert load_core(path) == load_core("dense")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "no shape given: expected M,N,K"),
        (("1,2",), "shape '1,2': expected M,N,K"),
        (("1,2,3", "-c", "flexible-8x17"), "Did you mean flexible-8x16?"),
        (("1,2,3", "-p", ","), "no pattern given"),
        (("1,2,3", "-w", "x.safetensors"), "expected --simulate as well"),
        (("1,2,3", "--simulate", "-t", "up"), "--tensor up: expected --weights"),
        (("1,2,3", "-p", "8:16", "--other", "8:16"), "second pattern 8:16: flexible-8x16 does not skip"),
        (("1,2,3", "-t", "up"), "--tensor up: expected --weights"),
        (("1,2,3", "-p", "dense", "--other", "8:16"), "pattern dense: expected a pattern N:M beside --other 8:16"),
        (("1,268435457,3", "--simulate"), "shape N=268435457: expected at most 268435456"),
        (("1,2,99999999999999999999",), "shape K=99999999999999999999: expected at most 268435456"),
        (("--write", "mine.txt"), "expected a name that ends in .toml"),
        (("-c", "dense,flexible-8x16", "--write", "x.toml"), "expected one core, got 2"),
        (("--list", "--write", "x.toml"), "--list and --write are both given, expected one of them"),
    ],
)  # fmt: skip
def test_bad_input(nmsim, arguments, problem):
    code, _, err = nmsim("core", *arguments)
    assert code == 2
    assert problem in err


def test_a_tensor_that_is_not_there_or_no_matrix(nmsim, tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {
        "bias": np.zeros(8, np.float32),
        "whole": np.zeros((8, 8), np.int32),
        "open": np.full((8, 8), np.inf, np.float16),
        "wide": np.ones((8, 16), np.float16),
        "h.0.mlp.c_fc.weight": np.ones((16, 8), np.float16),
        "h.0.mlp.c_fc.bias": np.ones(8, np.float16),
    }
    safetensors.numpy.save_file(tensors, path)
    code, _, err = nmsim("core", "1,8,8", "-p", "2:4", "--simulate", "-w", path)
    assert code == 2
    assert "--weights: expected --tensor as well, one of bias, " in err
    for tensor, problem in (
        ("up", "not in"),
        ("bias", "expected a matrix of floating-point numbers [N, K], got F32 [8]"),
        ("whole", "expected a matrix of floating-point numbers [N, K], got I32 [8, 8]"),
        (
            "open",
            "value[0, 0] is inf, the first of 64 of 64 elements that are NaN or infinite; expected finite",
        ),
        ("h.0.mlp.c_fc.weight", "--tensor h.0.mlp.c_fc.weight: shape [8, 16]: expected"),
        ("wide", "--tensor wide: shape [8, 16]: expected [N, K] of the product 1,8,8, [8, 8]"),
    ):
        code, _, err = nmsim("core", "1,8,8", "-p", "2:4", "--simulate", "-w", path, "-t", tensor)
        assert code == 2
        assert problem in err
