"""Bytes never change by accident: the golden files against the reference and against the fast codecs."""

import json
from typing import Any

import numpy as np
import pytest
from golden import cases
from golden.roads import FAST, REFERENCE, Road

from nmsim import errors, words
from nmsim import mask as fast_masks
from nmsim.pattern import Pattern
from nmsim.reference import masks as reference_masks

ROADS = pytest.mark.parametrize("road", [REFERENCE, FAST], ids=lambda road: road.name)


def load(name: str) -> dict[str, Any]:
    content = json.loads((cases.FOLDER / name).read_text(encoding="utf-8"))
    assert content["format_version"] == cases.FORMAT_VERSION
    return content


def each(name: str, key: str = "vectors") -> pytest.MarkDecorator:
    vectors = load(name)[key]
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


def test_every_file_has_a_writer() -> None:
    written = {path.name for path in cases.FOLDER.glob("*.json")} - {
        "invalid.json",
        "packed_files.json",
        "rows.json",
    }
    assert written == set(cases.DOCUMENTS)


@ROADS
@pytest.mark.parametrize("name", cases.DOCUMENTS)
def test_writing(name: str, road: Road) -> None:
    """Masks -> codes, lengths, streams and reports: the whole file, byte by byte."""
    complaint = cases.compare(cases.FOLDER / name, cases.DOCUMENTS[name](road), road.name)
    assert complaint is None, complaint


@ROADS
@pytest.mark.parametrize("name", cases.DOCUMENTS)
def test_reading(name: str, road: Road) -> None:
    """Streams -> codes -> masks, from nothing but the file."""
    content = load(name)
    encoding = content["encoding"]
    assert content["vectors"]
    for vector in content["vectors"]:
        pattern = Pattern.parse(vector["pattern"])
        masks = [cases.read_mask(text) for text in vector["masks"]]
        codes = [cases.read_integer(value) for value in vector["codes"]]
        assert road.decode(encoding, codes, pattern, len(masks)) == masks, vector["name"]
        for policy, stream in vector["streams"].items():
            data = bytes.fromhex(stream["hex"])
            assert road.read(data, len(masks), pattern, encoding, policy) == masks, (vector["name"], policy)
            if vector["code_lengths"] is None:
                assert road.unpack(data, len(codes), vector["code_bits"], policy) == codes, (
                    vector["name"],
                    policy,
                )


@ROADS
@each("invalid.json")
def test_refusing(vector: dict[str, Any], road: Road) -> None:
    with pytest.raises(errors.NmsimError) as caught:
        take_step(vector, road)
    assert type(caught.value).__name__ == vector["error"], str(caught.value)
    missing = [fragment for fragment in vector["says"] if fragment not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


def take_step(vector: dict[str, Any], road: Road) -> None:
    """Do what must fail."""
    pattern = Pattern.parse(vector["pattern"]) if "pattern" in vector else Pattern(1, 1)
    match vector["step"]:
        case "encode":
            masks = [cases.read_mask(text) for text in vector["masks"]]
            road.encode(vector["encoding"], masks, pattern)
        case "decode":
            codes = [cases.read_integer(value) for value in vector["codes"]]
            road.decode(vector["encoding"], codes, pattern, vector.get("n_groups"))
        case "pack":
            road.pack(vector["codes"], vector["lengths"], vector["policy"])
        case "unpack":
            stream = bytes.fromhex(vector["stream"])
            road.unpack(stream, vector["n_codes"], vector["code_bits"], vector["policy"])
        case "read":
            stream = bytes.fromhex(vector["stream"])
            road.read(stream, vector["n_groups"], pattern, vector["encoding"], vector["policy"])
        case "encoding":
            road.check_encoding_name(vector["encoding"])
        case "packing":
            road.report(1, 1, vector["policy"])
        case step:
            raise AssertionError(f"unknown step {step!r}")


def array_of(vector: dict[str, Any]) -> np.ndarray[Any, Any]:
    texts = vector.get("values", vector.get("scores"))
    if vector.get("dtype") == "int8":
        return np.array([int(text) for text in texts], dtype=np.int8)
    return np.array([float(text) for text in texts], dtype=vector.get("dtype", "float64"))


def reference_keep(vector: dict[str, Any], pattern: Pattern) -> list[bool]:
    row = array_of(vector)
    if "scores" in vector:
        return reference_masks.prune_row_by_scores(row.tolist(), pattern)
    if row.dtype.kind == "i":
        return reference_masks.prune_row(row.tolist(), pattern)
    words = row.view(f"u{row.itemsize}").tolist()
    magnitudes = [reference_masks.magnitude_of_bits(word, 8 * row.itemsize) for word in words]
    return reference_masks.prune_row(magnitudes, pattern)


def fast_keep(vector: dict[str, Any], pattern: Pattern) -> list[bool]:
    row = array_of(vector)
    if "scores" in vector:
        return fast_masks.prune(np.zeros_like(row), pattern, scores=row).tolist()
    return fast_masks.prune(row, pattern, bit_order=vector.get("bit_order", False)).tolist()


@each("rows.json")
@pytest.mark.parametrize("keep_of", [reference_keep, fast_keep])
def test_pruning_a_row(vector: dict[str, Any], keep_of: Any) -> None:
    pattern = Pattern.parse(vector["pattern"])
    if "error" in vector:
        with pytest.raises(errors.NmsimError) as caught:
            keep_of(vector, pattern)
        assert type(caught.value).__name__ == vector["error"]
        assert all(fragment in str(caught.value) for fragment in vector["says"]), str(caught.value)
        return
    keep = keep_of(vector, pattern)
    assert [i for i, kept in enumerate(keep) if kept] == vector["kept"]
    for completed_by in (reference_completed, fast_completed):
        masks = completed_by(keep, pattern)
        assert [cases.write_mask(mask, pattern) for mask in masks] == vector["masks"]


def reference_completed(keep: list[bool], pattern: Pattern) -> list[int]:
    return reference_masks.split_row(keep, pattern)


def fast_completed(keep: list[bool], pattern: Pattern) -> list[int]:
    completed = fast_masks.complete(np.array([keep]), pattern)
    return words.to_integers(fast_masks.to_words(completed, pattern)).tolist()


@each("rows.json", "completed")
@pytest.mark.parametrize("completed_by", [reference_completed, fast_completed])
def test_completing_a_group(vector: dict[str, Any], completed_by: Any) -> None:
    pattern = Pattern.parse(vector["pattern"])
    mask = cases.read_mask(vector["mask"])
    keep = [bool(mask >> i & 1) for i in range(pattern.m)]
    assert completed_by(keep, pattern) == [cases.read_mask(vector["completed"])]


@pytest.mark.parametrize("completed_by", [reference_completed, fast_completed])
def test_completing_refuses_an_over_full_group(completed_by: Any) -> None:
    keep = [True, False, True, False, True, True, False, True]
    with pytest.raises(errors.PatternError, match=r"group 1.*expected at most 2"):
        completed_by(keep, Pattern(2, 4))


def test_a_mismatch_leaves_a_new_file(tmp_path: Any) -> None:
    golden = tmp_path / "x.json"
    golden.write_text("old", encoding="utf-8")
    assert cases.compare(golden, "old", "fast") is None
    complaint = cases.compare(golden, "new", "fast")
    assert complaint is not None
    assert str(golden) in complaint
    assert str(tmp_path / "x.json.new") in complaint
    assert (tmp_path / "x.json.new").read_text(encoding="utf-8") == "new"
