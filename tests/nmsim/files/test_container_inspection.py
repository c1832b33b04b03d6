"""`inspect_checkpoint`: what it says is what `compress` and `pack_checkpoint` really do."""

import dataclasses
import re

import ml_dtypes
import numpy as np
import pytest

from nmsim import Pattern, compress, encodings, prune, save_file
from nmsim.errors import BitstreamError, ContainerError, EncodingError, PatternError
from nmsim.files import safetensors
from nmsim.files.checkpoint import pack_checkpoint
from nmsim.files.container import RawTensor
from nmsim.files.inspection import inspect_checkpoint


def weights(shape, dtype=np.float32, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 30).astype(dtype)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.safetensors"


@pytest.mark.parametrize(
    "dtype",
    [
        np.float64,
        np.float32,
        np.float16,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
        np.int8,
    ],
    ids=lambda dtype: dtype.__name__,
)
@pytest.mark.parametrize("shape", [(5, 37), (4, 16), (3, 2, 20), (0, 16), (8, 0)], ids=str)
def test_rows_are_what_compress_makes(path, dtype, shape, monkeypatch):
    monkeypatch.setattr(safetensors, "COPY_BYTES", 64)
    x = weights(shape, dtype)
    x.reshape(-1)[::7] = 0
    save_file({"x": x}, path)
    formats = [
        f"{p}/{name}/{policy}"
        for p in ("2:4", "3:7")
        for name in [*encodings.names(Pattern.parse(p)), "gap:1"]
        for policy in ("bitstream", "byte")
    ]
    rows = inspect_checkpoint(path, formats, include=["x"])
    assert len(rows) == len(formats) == 2 * (2 * len(encodings.names()) + 1)
    wide = x.astype(np.float64)
    for row in rows:
        packed = compress(x, f"{row.pattern}/{row.encoding}/{row.packing}")
        keep = prune(x, row.pattern)
        total = float((wide**2).sum())
        expected = float((wide[keep] ** 2).sum()) / total if total else 1.0
        assert row.energy_kept_ratio == pytest.approx(expected, rel=1e-12)
        assert row.nonzeros_elems == np.count_nonzero(wide[keep])
        footprint = dataclasses.asdict(packed.footprint)
        assert {name: getattr(row, name) for name in footprint} == footprint
        assert (row.metadata_bytes, row.total_bytes) == (
            packed.footprint.metadata_bytes,
            packed.footprint.total_bytes,
        )
        assert not row.stored


def test_energy_by_hand(path):
    save_file({"weight": np.array([[3, 4, 0, 0, 1, 1, 1, 1]], np.float32)}, path)
    (row,) = inspect_checkpoint(path, ["2:4/combinatorial"])
    assert row.energy_kept_ratio == 27 / 29
    assert row.nonzeros_elems == 4
    assert (row.values_bytes, row.metadata_payload_bits, row.metadata_alignment_bits) == (16, 6, 2)
    assert row.padding_bits == 2


@pytest.mark.parametrize(
    ("x", "energy"),
    [
        (np.zeros((2, 8)), 1.0),
        (np.full((1, 4), 1e200), None),
    ],
)
def test_energy_that_is_no_number_is_none(path, x, energy):
    save_file({"weight": x}, path)
    (row,) = inspect_checkpoint(path, ["2:4"])
    assert row.energy_kept_ratio == energy


def test_along_another_axis(path):
    x = weights((9, 5, 4))
    save_file({"weight": x}, path)
    (row,) = inspect_checkpoint(path, ["2:4"], axis=0)
    packed = compress(x, "2:4", axis=0)
    assert row.values_bytes == packed.footprint.values_bytes
    assert row.energy_kept_ratio == pytest.approx(
        (x[prune(x, "2:4", axis=0)] ** 2).sum() / (x**2).sum(), rel=1e-6
    )


def test_what_is_not_packed_is_shown_dense(path):
    tensors = {
        "weight": weights((4, 8)),
        "bias": np.array([0.0, -0.0, np.nan, 2.0]),
        "raw": RawTensor("F4", (2, 2), np.zeros(2, np.uint8)),
    }
    save_file(tensors, path)
    rows = {row.tensor: row for row in inspect_checkpoint(path, ["2:4"])}
    assert list(rows) == ["weight", "bias", "raw"]
    bias = rows["bias"]
    assert (bias.pattern, bias.encoding, bias.total_bytes, bias.nonzeros_elems) == (None, None, 32, 2)
    assert rows["raw"].nonzeros_elems is None


def test_the_defaults(path):
    save_file({"weight": weights((4, 32))}, path)
    rows = inspect_checkpoint(path)
    assert [(row.pattern, row.encoding, row.packing) for row in rows] == [
        (pattern, "bitmask", "bitstream") for pattern in ("2:4", "4:8", "8:16", "16:32")
    ]


def test_a_packed_checkpoint_shows_what_it_stores(tmp_path, path):
    x = weights((6, 20))
    x[0, :10] = 0
    save_file({"weight": x, "bias": weights(5)}, path)
    packed = tmp_path / "packed.safetensors"
    pack_checkpoint(path, packed, "8:16/index/byte")
    rows = inspect_checkpoint(packed)
    assert [(row.tensor, row.stored) for row in rows] == [("weight", True), ("bias", True)]
    tried, _ = inspect_checkpoint(path, ["8:16/index/byte"])
    stored = dataclasses.replace(
        tried, energy_kept_ratio=None, stored=True, reason="", axis=None, weights_elems=0
    )
    assert stored == rows[0]
    message = rf"^{packed}: is packed already, expected no format to try \(unpack it first\)$"
    with pytest.raises(ContainerError, match=message):
        inspect_checkpoint(packed, ["2:4"])


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (PatternError, "pattern 'x'", {"formats": ["x"]}),
        (EncodingError, "encoding 'x'", {"formats": ["2:4/x"]}),
        (BitstreamError, "packing 'x'", {"formats": ["2:4/index/x"]}),
        (BitstreamError, "codes of differing", {"formats": ["2:4/gap:1/no_straddle"]}),
        (ContainerError, "formats is '2:4': expected a sequence of them", {"formats": "2:4"}),
        (ContainerError, "no tensor matches 'x', expected at least one of its 1 tensors", {"include": ["x"]}),
        (PatternError, "tensor 'weight', data at byte", {"axis": 5, "include": ["*"]}),
    ],
)
def test_what_cannot_be_inspected_is_refused(path, error, message, arguments):
    save_file({"weight": weights((4, 8))}, path)
    with pytest.raises(error, match=re.escape(message)):
        inspect_checkpoint(path, **arguments)


def test_patterns_may_be_patterns(path):
    save_file({"weight": weights((4, 8))}, path)
    assert [row.pattern for row in inspect_checkpoint(path, [Pattern(1, 4)])] == ["1:4"]
