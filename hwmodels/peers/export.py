"""Input files for other simulators: architecture, workload and sparse options, with the metadata bits that nmsim encodes.

One core of a tensor-core design becomes the machine. Z[M, N] = A[M, K] B[K, N] is the product in the letters of Sparseloop: A
are the weights, M counts out features and N tokens. Energy and area are left to the tools of the simulator.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from hwmodels.peers.sparseloop import encoded_bits_per_value
from hwmodels.tensorcore.record import SparseTensorCore, load_core
from nmsim.case import DEFAULT_DTYPE, VALUE_BITS, GemmShape, value_type
from nmsim.encodings.bitmask import Bitmask
from nmsim.errors import SpecError, brief
from nmsim.files import atomic
from nmsim.format import FormatLike, SparseFormat, as_format

METADATA_SRAM_BITS = 64
"""Least width of a metadata memory. The width written is a multiple of the bits of a word, since Timeloop rounds others up."""
PEERS = {
    "sparseloop": "Sparseloop's artifact of MICRO'22, `fig15_stc_related_setup`",
    "timeloop": "timeloopfe v4, `sparse_optimizations.py`",
    "accelforge": "AccelForge's pull request 33, `frontend/sparse.py`",
    "scalesim": "SCALE-Sim 3.0.0",
}
"""Simulators for which files are written -> where their input format is from."""


@dataclass(frozen=True)
class Product:
    """One product of the workload: a name, its shape, and how its weights are stored (None if dense)."""

    name: str
    shape: GemmShape
    format: SparseFormat | None


@dataclass(frozen=True)
class Exported:
    """What was written.

    Parameters
    ----------
    folder : Path
    files : tuple of str
        Names in the folder.
    bits_per_value : dict of str to Fraction
        Metadata bits per kept weight of each product, as nmsim encodes them.
    written_bits : dict of str to Fraction
        The same as the files state them.
    """

    folder: Path
    files: tuple[str, ...]
    bits_per_value: dict[str, Fraction]
    written_bits: dict[str, Fraction]


def export_peer(
    folder: str | os.PathLike[str],
    products: Iterable[tuple[str, GemmShape]],
    *,
    peer: str,
    format: FormatLike | None,
    core: str | SparseTensorCore = "nvidia-like-2x4",
    dtype: str = DEFAULT_DTYPE,
    dense: Iterable[str] = (),
) -> Exported:
    """Write the input files of a simulator into a new folder.

    Parameters
    ----------
    folder : path
        New, or empty.
    products : iterable of (str, GemmShape)
        Names and shapes. A name is cut down to letters, digits and `_`.
    peer : {"sparseloop", "timeloop", "accelforge", "scalesim"}
    format : SparseFormat, Pattern, str or None
        How the weights are stored; None for dense ones.
    core : str or SparseTensorCore
        Design of which one core is written.
    dtype : str
        Value type of both operands.
    dense : iterable of str
        Names of products whose weights are dense all the same, such as a head.

    Returns
    -------
    Exported

    Raises
    ------
    SpecError
        An unknown simulator or core, no product, or names that are the same.
    ContainerError
        A folder that is not empty or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "scalesim"
    >>> done = export_peer(folder, [("fc1", GemmShape(128, 256, 512))], peer="scalesim", format="2:4/index")
    >>> done.files, done.bits_per_value
    (('README.md', 'layout.csv', 'scale.cfg', 'topology.csv'), {'fc1': Fraction(2, 1)})
    >>> print((folder / "topology.csv").read_text())
    Layer Name, M, N, K, Sparsity,
    fc1,128,256,512,2:4,
    <BLANKLINE>
    """
    if peer not in WRITERS:
        raise SpecError(f"simulator {brief(peer)}: expected one of {', '.join(WRITERS)}")
    stored = as_format(format)
    machine = load_core(core) if isinstance(core, str) else core
    left = set(dense)
    wanted = [Product(_plain(name), shape, None if name in left else stored) for name, shape in products]
    names = [product.name for product in wanted]
    if not wanted or len(set(names)) != len(names):
        raise SpecError(f"products {brief(names)}: expected at least one, each with a name of its own")
    bits = VALUE_BITS[value_type(dtype)]
    files = WRITERS[peer](wanted, machine, bits)
    exact = {p.name: _bits_per_value(p) for p in wanted if p.format is not None}
    written = {p.name: _written_bits(p, peer) for p in wanted if p.format is not None}
    files["README.md"] = _readme(peer, machine, wanted, exact, written)
    target = Path(folder)
    with atomic.new_folder(target) as work:
        for name, text in files.items():
            (work / name).write_text(text, encoding="utf-8")
    return Exported(target, tuple(sorted(files)), exact, written)


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII) or "layer"


def _bits_per_value(product: Product) -> Fraction:
    """Metadata bits of the encoded stream per kept value; tails of rows are whole groups."""
    assert product.format is not None
    pattern = product.format.pattern
    return encoded_bits_per_value(
        product.format, product.shape.N * pattern.groups(product.shape.K) * pattern.m
    )


def _written_bits(product: Product, peer: str) -> Fraction:
    """Metadata bits per kept value that the files of a simulator state."""
    assert product.format is not None
    exact, pattern = _bits_per_value(product), product.format.pattern
    if peer == "scalesim":
        return Fraction((pattern.m - 1).bit_length())
    if peer == "accelforge" or isinstance(product.format.encoding, Bitmask):
        return exact
    return Fraction(math.ceil(exact))


def _ranks(product: Product, peer: str, dash: str) -> list[dict[str, Any]]:
    """Ranks of the weights from the outer one to the inner: rows, and positions within a row."""
    outer = {"format": "UOP", f"payload{dash}word{dash}bits": 0}
    assert product.format is not None
    if isinstance(product.format.encoding, Bitmask):
        # A bit per element is a format of its own there, so that no width has to be rounded.
        return [outer, {"format": "B", f"metadata{dash}word{dash}bits": 1}]
    bits = _written_bits(product, peer)
    width = int(bits) if bits.denominator == 1 else float(bits)
    return [outer, {"format": "CP", f"metadata{dash}word{dash}bits": width}]


def _metadata_width(products: Sequence[Product]) -> int:
    """Width of the metadata memories: the least multiple of all word widths from 64 bits on."""
    widths = [int(_written_bits(p, "timeloop")) for p in products if p.format is not None]
    word = math.lcm(*(max(1, width) for width in widths)) if widths else 1
    return word * math.ceil(METADATA_SRAM_BITS / word)


def _sizes(core: SparseTensorCore, value_bits: int) -> dict[str, int]:
    """Numbers of one core in words of a value."""
    return {
        "macs": core.array_rows * core.array_cols * core.depth(value_bits),
        "depth": core.depth(value_bits),
        "outputs": core.array_rows * core.array_cols,
        "shared_words": core.shared_bytes * 8 // value_bits,
        "shared_rate": max(1, core.shared_bytes_per_cycle * 8 // value_bits),
        "dram_rate": max(1, int(core.dram_bytes_per_cycle * 8 / value_bits / core.cores)),
    }


@dataclass(frozen=True)
class Node:
    """A YAML mapping with a tag, such as `!Component`."""

    tag: str
    fields: Mapping[str, Any]


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml

    # A dumper of our own, so that the tags of nodes are unknown to everybody else's.
    dumper: Any = type("Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda self, data: True})
    dumper.add_representer(
        Node, lambda out, node: out.represent_mapping(f"!{node.tag}", dict(node.fields), flow_style=False)
    )
    text: str = yaml.dump(dict(document), Dumper=dumper, sort_keys=False)
    return text


def _shape_of_problem(product: Product, dash: str) -> dict[str, Any]:
    projections = {"A": ["M", "K"], "B": ["K", "N"], "Z": ["M", "N"]}
    spaces = [
        {"name": name, "projection": [[[dim]] for dim in dims]}
        | ({f"read{dash}write": True} if name == "Z" else {})
        for name, dims in projections.items()
    ]
    return {"name": "MatMul", "dimensions": ["M", "N", "K"], f"data{dash}spaces": spaces}


def _instance(product: Product) -> dict[str, Any]:
    shape = product.shape
    instance: dict[str, Any] = {"M": shape.N, "N": shape.M, "K": shape.K}
    if product.format is not None:
        density = float(product.format.pattern.density)
        instance["densities"] = {"A": {"distribution": "fixed-structured", "density": density}}
    return instance


def _sparseloop(products: Sequence[Product], core: SparseTensorCore, bits: int) -> dict[str, str]:
    """Two files per product, and one for all: the study of MICRO'22 has one problem per run."""
    sizes, width = _sizes(core, bits), _metadata_width(products)
    metadata = {
        "metadata_storage_width": width,
        "metadata_storage_depth": max(1, sizes["shared_words"] * bits // width),
    }
    # Bandwidths count words of a value per cycle, as those of the study do.
    mac = "intmac" if bits <= 8 else "fpmac"
    architecture = {
        "version": 0.3,
        "subtree": [
            {
                "name": "system",
                "local": [
                    {
                        "name": "DRAM",
                        "class": "DRAM",
                        "attributes": {"width": 64, "datawidth": bits, "metadata_storage_width": width}
                        | {"read_bandwidth": sizes["dram_rate"], "write_bandwidth": sizes["dram_rate"]},
                    }
                ],
                "subtree": [
                    {
                        "name": "core",
                        "local": [
                            {
                                "name": "SMEM",
                                "class": "smartbuffer_SRAM",
                                "attributes": {
                                    "data_storage_depth": sizes["shared_words"],
                                    "data_storage_width": bits,
                                }
                                | {"datawidth": bits, "read_bandwidth": sizes["shared_rate"]}
                                | metadata,
                            },
                            {
                                "name": f"MAC[0..{sizes['macs'] - 1}]",
                                "class": mac,
                                "attributes": {"datawidth": bits, "meshX": sizes["macs"]},
                            },
                        ],
                    }
                ],
            }
        ],
    }
    files = {"arch.yaml": _yaml({"architecture": architecture})}
    for product in products:
        problem = {"shape": _shape_of_problem(product, "-"), "instance": _instance(product)}
        files[f"{product.name}.problem.yaml"] = _yaml({"problem": problem})
        if product.format is not None:
            spaces = {"data-spaces": [{"name": "A", "ranks": _ranks(product, "sparseloop", "-")}]}
            targets: list[dict[str, Any]] = [
                {"name": name, "representation-format": spaces} for name in ("DRAM", "SMEM")
            ]
            skipping = {
                "type": "skipping",
                "options": [{"target": name, "condition-on": ["A"]} for name in "BZ"],
            }
            targets[1]["action-optimization"] = [skipping]
            files[f"{product.name}.sparse-opt.yaml"] = _yaml({"sparse_optimizations": {"targets": targets}})
    return files


def _timeloop(products: Sequence[Product], core: SparseTensorCore, bits: int) -> dict[str, str]:
    """One file per product, in version 0.4."""
    sizes, width = _sizes(core, bits), _metadata_width(products)
    nodes = [
        Node("Container", {"name": "system"}),
        Node(
            "Component",
            {
                "name": "DRAM",
                "class": "DRAM",
                "attributes": {"width": 64, "datawidth": bits, "metadata_storage_width": width}
                | {"read_bandwidth": sizes["dram_rate"], "write_bandwidth": sizes["dram_rate"]},
            },
        ),
        Node(
            "Component",
            {
                "name": "SMEM",
                "class": "SRAM",
                "attributes": {"depth": sizes["shared_words"], "width": bits, "datawidth": bits}
                | {"read_bandwidth": sizes["shared_rate"], "metadata_storage_width": width}
                | {"metadata_storage_depth": max(1, sizes["shared_words"] * bits // width)},
            },
        ),
        Node("Container", {"name": "array", "spatial": {"meshX": sizes["macs"]}}),
        Node("Component", {"name": "MAC", "class": "compute", "attributes": {"datawidth": bits}}),
    ]
    files = {}
    # The tool reads one document, whose parts carry the version each.
    for product in products:
        document: dict[str, Any] = {
            "architecture": {"version": 0.4, "nodes": nodes},
            "problem": {
                "version": 0.4,
                "shape": _shape_of_problem(product, "_"),
                "instance": _instance(product),
            },
        }
        if product.format is not None:
            ranks = _ranks(product, "timeloop", "_")
            targets: list[dict[str, Any]] = [
                {"target": name, "representation_format": {"data_spaces": [{"name": "A", "ranks": ranks}]}}
                for name in ("DRAM", "SMEM")
            ]
            skipping = {
                "type": "skipping",
                "options": [{"target": name, "condition_on": ["A"]} for name in "BZ"],
            }
            targets[1]["action_optimization"] = [skipping]
            document["sparse_optimizations"] = {"version": 0.4, "targets": targets}
        files[f"{product.name}.yaml"] = _yaml(document)
    return files


def _accelforge(products: Sequence[Product], core: SparseTensorCore, bits: int) -> dict[str, str]:
    """Architecture, and a workload with an einsum per product; widths of metadata may be fractions there."""
    sizes = _sizes(core, bits)
    hertz = core.clock_hz

    def memory(name: str, size: Any, rate: float, **more: Any) -> Node:
        actions = [
            {"name": action, "energy": 0, "throughput": rate * bits * hertz} for action in ("read", "write")
        ]
        return Node(
            "Memory", {"name": name, "size": size, "leak_power": 0, "area": 0, "actions": actions} | more
        )

    # All einsums of a workload share the nodes, so that each has tensors of names of its own.
    formats = [
        {"name": f"A_{p.name}", "ranks": _ranks(p, "accelforge", "_")}
        for p in products
        if p.format is not None
    ]
    skips = [
        {"kind": "skipping", "target": f"B_{p.name}", "condition_on": [f"A_{p.name}"]}
        for p in products
        if p.format is not None
    ]
    sparse: dict[str, Any] = {"representation_format": formats} if formats else {}
    compute = {"name": "MAC", "leak_power": 0, "area": 0}
    compute |= {"actions": [{"name": "compute", "energy": 0, "throughput": sizes["macs"] * hertz}]}
    nodes = [
        memory(
            "DRAM", "inf", sizes["dram_rate"], tensors={"keep": "~Intermediates", "may_keep": "All"}, **sparse
        ),
        memory(
            "SMEM",
            sizes["shared_words"] * bits,
            sizes["shared_rate"],
            tensors={"keep": "All"},
            **sparse,
            **({"action_optimization": skips} if skips else {}),
        ),
        Node("Compute", compute),
    ]
    einsums, ranks, densities, structures = [], {}, {}, {}
    for product in products:
        name = product.name
        letters = {dim: f"{dim}_{name}".lower() for dim in "MNK"}
        shape = product.shape
        for dim, size in (("M", shape.N), ("N", shape.M), ("K", shape.K)):
            ranks[letters[dim]] = f"0 <= {letters[dim]} < {size}"
        accesses: list[dict[str, Any]] = [
            {"name": f"{tensor}_{name}", "projection": [letters[dim] for dim in dims]}
            for tensor, dims in (("A", "MK"), ("B", "KN"), ("Z", "MN"))
        ]
        accesses[2]["output"] = True
        einsums.append({"name": name, "tensor_accesses": accesses})
        if product.format is not None:
            densities[f"A_{name}"] = float(product.format.pattern.density)
            structures[f"A_{name}"] = "structured"
    workload: dict[str, Any] = {"iteration_space_shape": ranks, "bits_per_value": {"All": bits}}
    if densities:
        workload |= {"densities": densities, "density_distributions": structures}
    workload["einsums"] = einsums
    return {"arch.yaml": _yaml({"arch": {"nodes": nodes}}), "workload.yaml": _yaml({"workload": workload})}


def _scalesim(products: Sequence[Product], core: SparseTensorCore, bits: int) -> dict[str, str]:
    """Configuration, topology and an empty layout; a core is one weight-stationary array."""
    sizes = _sizes(core, bits)
    patterns = [product.format.pattern for product in products if product.format is not None]
    half = max(1, core.shared_bytes // 2048)
    sections: dict[str, dict[str, object]] = {
        "general": {"run_name": "nmsim"},
        "architecture_presets": {
            "ArrayHeight": sizes["depth"],
            "ArrayWidth": sizes["outputs"],
            "IfmapSramSzkB": half,
            "FilterSramSzkB": half,
            "OfmapSramSzkB": max(1, core.accumulator_bytes // 1024),
            "IfmapOffset": 0,
            "FilterOffset": 10_000_000,
            "OfmapOffset": 20_000_000,
            "Bandwidth": sizes["dram_rate"],
            "Dataflow": "ws",
            "MemoryBanks": 1,
            "ReadRequestBuffer": 512,
            "WriteRequestBuffer": 512,
        },
        "sparsity": {
            "SparsitySupport": bool(patterns),
            "SparseRep": "ellpack_block",
            "OptimizedMapping": False,
            "BlockSize": patterns[0].m if patterns else 4,
            "RandomNumberGeneratorSeed": 40,
        },
        "layout": {
            f"{side}{key}": value
            for side in ("Ifmap", "Filter")
            for key, value in (
                ("CustomLayout", False),
                ("SRAMBankBandwidth", 10),
                ("SRAMBankNum", 10),
                ("SRAMBankPort", 2),
            )
        },
        "run_presets": {"InterfaceBandwidth": "CALC", "UseRamulatorTrace": False},
    }
    text = "\n".join(
        "\n".join([f"[{section}]", *(f"{key} : {value}" for key, value in entries.items()), ""])
        for section, entries in sections.items()
    )
    # The parser drops the field behind the last comma, so that every line ends in one.
    rows = ["Layer Name, M, N, K, Sparsity,"]
    for product in products:
        shape, ratio = product.shape, product.format.pattern if product.format else "1:1"
        rows.append(f"{product.name},{shape.M},{shape.N},{shape.K},{ratio},")
    return {
        "scale.cfg": text,
        "topology.csv": "\n".join(rows) + "\n",
        "layout.csv": "Layer name, IFMAP Height Intraline Factor,\n",
    }


WRITERS: dict[str, Callable[[Sequence[Product], SparseTensorCore, int], dict[str, str]]] = {
    "sparseloop": _sparseloop,
    "timeloop": _timeloop,
    "accelforge": _accelforge,
    "scalesim": _scalesim,
}
"""Simulator -> what writes its files."""


def _readme(
    peer: str,
    core: SparseTensorCore,
    products: Sequence[Product],
    exact: Mapping[str, Fraction],
    written: Mapping[str, Fraction],
) -> str:
    """Say what the files are, and where they cannot say what nmsim encodes."""
    lines = [
        f"# Files for {peer}, written by nmsim",
        "",
        f"Format: {PEERS[peer]}. One core of `{core.id}` is the machine. Energy and area are not stated.",
        "A are the weights, M counts out features and N tokens; in the files of SCALE-Sim M counts tokens.",
        "",
        "| product | tokens, out, in | weights | metadata bits per kept weight | in the files |",
        "|---|---|---|---|---|",
    ]
    for product in products:
        shape = product.shape
        stored = product.format.short if product.format else "dense"
        bits = (f"{float(side[product.name]):g}" if product.format else "-" for side in (exact, written))
        lines.append(f"| {product.name} | {shape.M}, {shape.N}, {shape.K} | {stored} | {' | '.join(bits)} |")
    if peer == "scalesim":
        lines += ["", "Run: `python -m scalesim.scale -c scale.cfg -t topology.csv -l layout.csv -i gemm -p results`.",
                  "SCALE-Sim counts ceil(log2 M) bits per kept weight whatever the encoding, and metadata take no time there.",
                  "It uses one block size, that of the first sparse product, for row-wise sparsity only."]  # fmt: skip
    elif any(exact[name] != written[name] for name in exact):
        lines += [
            "",
            "This simulator takes whole bits only, so that the next whole number stands in its files.",
        ]
    return "\n".join(lines) + "\n"
