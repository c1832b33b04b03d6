"""Names of machines and words of patterns: read generously, never guessed."""

import csv

import pytest

import hwmodels
from nmsim.errors import RowError
from nmsim.pattern import Pattern
from nmsim.support.schema import read_record
from validate.judge.names import (
    KERNEL_FAMILIES,
    NAMES_FILE,
    MachineNames,
    Machines,
    canonical,
    sparse_operand,
    understand,
)
from validate.judge.rows import DATA_FOLDER

MACHINES = Machines()


@pytest.mark.parametrize(
    ("text", "id_"),
    [
        ("A100 80GB PCIe", "a100-pcie"),
        ("NVIDIA A100-PCIE-80GB", "a100-pcie"),
        ("A100", "a100-sxm"),
        ("A100 80GB", "a100-sxm"),
        ("A100 SXM4", "a100-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm"),
        ("A100 (xformers bench)", "a100-sxm"),
        ("H100 (SM90, SKU unstated)", "h100-sxm"),
        ("Hopper-class (unstated; fixes H100 issue 153825)", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("h100 (pcie)", "h100-pcie"),
        ("GB10 (DGX Spark)", "gb10"),
        ("NVIDIA GB10", "gb10"),
        ("DGX Spark (GB10)", "gb10"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("RTX4090 24GB", "rtx4090"),
        ("geforce rtx-3090", "rtx3090"),
        ("RTX 2080 SUPER", "rtx2080s"),
        ("RTX 3060", "rtx3060"),
        ("NVIDIA B200 192GB", "b200"),
        ("RTX 5080", "rtx5080"),
        ("A6000", "rtx-a6000"),
        ("AMD Instinct MI300X", "mi300x"),
        ("MI300X OAM (gfx942)", "mi300x"),
        ("H100 SXM5 80GB HBM3", "h100-sxm"),
        ("NVIDIA GeForce RTX 4070 SUPER", "rtx4070-super"),
        ("RTX 4070 (SUPER)", "rtx4070-super"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER 16GB", "rtx4070-ti-super"),
        ("RTX 3090 Ti", "rtx3090-ti"),
        ("RTX 3090 (Ti)", "rtx3090-ti"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000-ada"),
        ("RTX 6000 Ada", "rtx6000-ada"),
        ("RTX 6000 (Ada)", "rtx6000-ada"),
        ("6000 Ada", "rtx6000-ada"),
        ("NVIDIA H20", "h20"),
        ("H20 96GB", "h20"),
        ("NVIDIA H800", "h800-sxm"),
        ("H800 SXM5", "h800-sxm"),
        ("NVIDIA H800 PCIe", "h800-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("H100 (NVL)", "h100-nvl"),
        ("A800", "a800-sxm"),
        ("NVIDIA A800-SXM4-80GB", "a800-sxm"),
        ("NVIDIA A800 80GB PCIe", "a800-pcie"),
        ("NVIDIA A30", "a30"),
        ("NVIDIA L20", "l20"),
        ("Orin (nvgpu)", "jetson-agx-orin"),
        ("Jetson AGX Orin 64GB", "jetson-agx-orin"),
        ("NVIDIA GB200", "gb200"),
        ("GB200 NVL72", "gb200"),
        ("AMD Instinct MI350X", "mi350x"),
        ("Intel(R) Xeon(R) Platinum 8480+", "xeon-platinum-8480"),
        ("AMD EPYC 9654 96-Core Processor", "epyc-9654"),
    ],
)
def test_names(text, id_):
    assert MACHINES.find(text).id == id_


@pytest.mark.parametrize(
    "text",
    [
        "RTX 4090 (laptop)",
        "RTX 4090 D",
        "RTX 3080 Ti",
        "RTX 4070",
        "RTX 4070 Ti",
        "RTX 4090 (Ti)",
        "RTX 6000",
        "H200 NVL",
        "GH200",
        "L40",
        "MI355X",
        "Jetson Orin Nano",
        "A6000/A100",
        "RTX 2080",
        "",
        "GPU",
    ],
)
def test_near_names_are_no_names(text):
    with pytest.raises(RowError, match="no machine of that name"):
        MACHINES.find(text)


def test_another_memory_is_another_machine():
    with pytest.raises(RowError, match="'A100 40GB': 40 GB stated, but a100-sxm has 80 GB"):
        MACHINES.find("A100 40GB")
    with pytest.raises(RowError, match="32 GB stated, but jetson-agx-orin has 64 GB"):
        MACHINES.find("Jetson AGX Orin 32GB")


def test_every_shipped_machine_is_found_by_every_name():
    for spec in map(hwmodels.load_machine, hwmodels.machine_names()):
        assert {MACHINES.find(name).id for name in (spec.id, spec.name, *spec.aliases)} == {spec.id}


def test_entries_of_the_table_are_needed_and_lead_to_specs():
    entries = read_record(MachineNames, NAMES_FILE).name
    assert {entry.id for entry in entries} <= set(hwmodels.machine_names())
    names = [canonical(entry.text) for entry in entries]
    assert len(set(names)) == len(names)
    known = {
        canonical(n)
        for spec in map(hwmodels.load_machine, hwmodels.machine_names())
        for n in (spec.id, spec.name, *spec.aliases)
    }
    assert set(names).isdisjoint(known)


def test_own_hardware_comes_first(tmp_path):
    text = (hwmodels.machine.spec.SPEC_FOLDER / "h200.toml").read_text(encoding="utf-8")
    path = tmp_path / "box7.toml"
    path.write_text(
        text.replace('id = "h200"', 'id = "mine"').replace('name = "NVIDIA H200', 'name = "Our H200')
    )
    machines = Machines([path])
    assert [machines.find(name).id for name in ("mine", "box7", "Box-7", "our h200 sxm")] == ["mine"] * 4
    assert machines.find("h200-sxm").id == "mine"
    assert MACHINES.find("h200-sxm").id == "h200"


def test_two_machines_of_one_name_are_refused(monkeypatch):
    machines = Machines()
    machines._add(("twin",), hwmodels.load_machine("h200"))
    machines._add(("Twin",), hwmodels.load_machine("b200"))
    with pytest.raises(RowError, match="'twin': could be b200 or h200; expected one of the two ids"):
        machines.find("twin")


@pytest.mark.parametrize(
    ("words", "kernel", "M", "family", "pattern", "density"),
    [
        ("2:4", "anything", 64, "library", "2:4", 0.5),
        ("2:4 weights", "torch", 64, "library", "2:4", 0.5),
        ("2:4 activation", "torchao", 64, "library", "2:4", 0.5),
        ("2:4 semi-structured", "hipSPARSELt", 64, "library", "2:4", 0.5),
        ("6:8 via sliding 2:4 windows", "cuSPARSELt", 64, "sliding", "6:8", 0.75),
        ("4:6 via sliding 2:4 windows", "x", 64, "sliding", "4:6", 2 / 3),
        ("8:10", "SlideSparse", 64, "sliding", "8:10", 0.8),
        ("unstructured 50% (4-bit delta)", "x", 1, "delta-gemv", None, 0.5),
        ("unstructured density 0.1", "MACKO-SpMV", 1, "delta-gemv", None, 0.1),
        ("unstructured density 0.3", "unheard of", 1, "delta-gemv", None, 0.3),
        ("unstructured 70%", "Sputnik", 1, "csr", None, 0.3),
        ("unstructured 50%", "Sputnik (unstructured)", 4096, "csr", None, 0.5),
        ("unstructured 30% density", "x", 4096, "csr", None, 0.3),
        ("16:32 vector-wise", "unheard of", 4096, "vector-nm", "16:32", 0.5),
        ("8:32", "NM-SpMM", 4096, "vector-nm", "8:32", 0.25),
        ("V:2:10 (V=32)", "Spatha", 4096, "column-nm", "2:10", 0.2),
        ("64:2:8", "Spatha", 4096, "column-nm", "2:8", 0.25),
        ("8:16", "x", 1, "auto", "8:16", 0.5),
        ("4:8", "x", 1, "auto", "4:8", 0.5),
    ],
)
def test_patterns(words, kernel, M, family, pattern, density):
    found = understand(words, kernel, M)
    assert found.name == family in KERNEL_FAMILIES
    assert found.pattern == (Pattern.parse(pattern) if pattern else None)
    assert found.density == pytest.approx(density)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "dense",
        "2:4 + INT4 g64",
        "tile-hybrid dense+2:4, 25%",
        "unstructured 30-70% bitmap",
        "unstructured",
        "unstructured density 0",
        "unstructured 100%",
        "unstructured density 1.2",
        "unstructured density 1.2.3",
        "unstructured 50% (bitmap)",
        "5:8 via sliding 2:4 windows",
        "4:2",
        "N:M M=32",
        "2:4 mlp only",
    ],
)
def test_other_patterns_are_refused(words):
    with pytest.raises(RowError, match="expected"):
        understand(words, "cuSPARSELt", 1)


def test_sparse_operands():
    assert sparse_operand("2:4 activation", "cuSPARSELt") == "activations"
    assert sparse_operand("2:4", "cuSPARSELt") == "weights"
    assert sparse_operand("2:4 activation", "torchao rowwise sparse CUTLASS fp8 (no pack)") == "weights"


def test_all_committed_words_are_understood():
    with open(DATA_FOLDER / "published_source.csv", encoding="utf-8") as stream:
        found = {
            understand(r["pattern"], r["kernel_library"], int(r["M"])).name for r in csv.DictReader(stream)
        }
    assert found == set(KERNEL_FAMILIES) - {"auto", "software"}
