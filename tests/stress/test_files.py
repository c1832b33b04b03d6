"""Damaged files of every kind that nmsim reads: one clear error, or a valid result."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import hwmodels
import kernels.measure
import nmsim
from hwmodels.machine.spec import SPEC_FOLDER
from hwmodels.sweeps.space import load_space
from hwmodels.tensorcore.record import PRESET_FOLDER
from kernels.measure.campaign import load as load_campaign
from nmsim import NmsimError, PackedTensor, compress, decompress, load_file, rows, save_file

MEASURED = Path(nmsim.__file__).parents[1] / "validate/data/measured/epyc-milan-2core.csv"
EXAMPLE_SPACE = SPEC_FOLDER.parents[1] / "data" / "example-space.toml"
FORMATS = ("2:4/bitmask", "4:8/gap:1/byte", "8:16/combinatorial", "3:7/joint:3", "16:32/index/no_straddle:8")
LONGEST_LINE = 300


def packed_file(path):
    """Write a packed file of all kinds of formats, and give its bytes."""
    rng = np.random.default_rng(0)
    tensors = {
        f"{position}.weight": compress(rng.standard_normal((3, 45)).astype(np.float32), stored_as)
        for position, stored_as in enumerate(FORMATS)
    }
    save_file(tensors | {"bias": np.arange(3, dtype=np.int16)}, path, metadata={"source": "a test"})
    return path.read_bytes()


def read_packed(path):
    """Load a packed file, decode it, and write it again: what was read must be what is written."""
    tensors = load_file(path)
    for tensor in tensors.values():
        if isinstance(tensor, PackedTensor):
            assert decompress(tensor).shape == tensor.shape
    again = path.with_name("again.safetensors")
    save_file(tensors, again)
    assert list(load_file(again)) == list(tensors)


READERS = {
    "machine.toml": (SPEC_FOLDER / "h200-8x16.toml", hwmodels.load_machine),
    "core.toml": (PRESET_FOLDER / "flexible-8x16.toml", hwmodels.load_core),
    "space.toml": (EXAMPLE_SPACE, load_space),
    "campaign.toml": (kernels.measure.campaign.CAMPAIGN_FOLDER / "cpu-quick.toml", load_campaign),
    "rows.csv": (MEASURED, rows.read),
}
"""Every kind of file beside packed ones and configurations of models: an example, and what reads it."""

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
}


def damaged(rng, raw):
    """Change a file as disks, editors and enemies do."""
    changed = bytearray(raw)
    kind = ("bits", "bytes", "cut", "grown", "repeated", "zeroed", "swapped", "text")[rng.integers(8)]
    at, other = (int(rng.integers(len(raw))) for _ in range(2))
    low, high = sorted((at, other))
    if kind == "bits":
        for _ in range(int(rng.integers(1, 5))):
            changed[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    elif kind == "bytes":
        for _ in range(int(rng.integers(1, 5))):
            changed[int(rng.integers(len(raw)))] = int(rng.integers(256))
    elif kind == "cut":
        del changed[at:]
    elif kind == "grown":
        changed += rng.bytes(int(rng.integers(1, 64)))
    elif kind == "repeated":
        changed[high:high] = changed[low : min(high, low + 200)]
    elif kind == "zeroed":
        changed[low : min(high, low + 64)] = bytes(min(high, low + 64) - low)
    elif kind == "swapped":
        changed[low:high] = bytes(reversed(changed[low:high]))
    else:
        # Words that break readers of text: huge numbers, not-a-number, control characters, formulas.
        word = (b"9" * 5000, b"NaN", b"\x1b[31m", b"-1e999", b"\0", b"=1+1", "‮".encode(), b'"', b"\n[[")
        changed[at:at] = word[int(rng.integers(len(word)))]
    return bytes(changed)


def complaint_of(action, path):
    """Run an action on a file; give the error it ends with, or None."""
    try:
        action(path)
    except NmsimError as error:
        return str(error)
    return None


def test_damaged_files(run, tmp_path):
    """Nothing but our own errors, each of lines within 300 characters."""
    rng, total = run.rng(), run.size("damaged files")
    sources = {"packed.safetensors": (packed_file(tmp_path / "good.safetensors"), read_packed)}
    sources |= {name: (example.read_bytes(), reader) for name, (example, reader) in READERS.items()}
    sources["config.json"] = (json.dumps(CONFIG, indent=1).encode(), hwmodels.load_model)
    counts = {name: Counter(refused=0, valid=0) for name in sources}
    # Half of all files are packed ones: they are the format that is ours.
    names = ["packed.safetensors"] * len(READERS) + list(sources)
    for number in range(total):
        name = names[number % len(names)]
        raw, action = sources[name]
        path = tmp_path / name
        path.write_bytes(damaged(rng, raw))
        try:
            complaint = complaint_of(action, path)
        except Exception as error:
            error.add_note(f"seed {run.seed}, file {number}: {name}, kept as {path}")
            raise
        counts[name]["valid" if complaint is None else "refused"] += 1
        for line in (complaint or "").splitlines():
            assert len(line) <= LONGEST_LINE, (run.seed, number, name, line)
            assert line.isprintable(), (run.seed, number, name, line)
        run.tell(number + 1, total)
    run.figures.update({name: dict(kinds) for name, kinds in counts.items()})
    if run.stress:
        assert all(kinds["refused"] and kinds["valid"] for kinds in counts.values())


def test_bit_flips(run, tmp_path):
    """One flipped bit of a packed file: an error, or another valid file; what is not touched stays equal."""
    rng, total = run.rng(), run.size("bit flips")
    raw = packed_file(tmp_path / "good.safetensors")
    good = {name: dense_bytes(tensor) for name, tensor in load_file(tmp_path / "good.safetensors").items()}
    header_end = 8 + int.from_bytes(raw[:8], "little")
    places = rng.permutation(8 * len(raw))[:total]
    counts: Counter[str] = Counter()
    for place in places:
        changed = bytearray(raw)
        changed[place // 8] ^= 1 << int(place % 8)
        path = tmp_path / "flipped.safetensors"
        path.write_bytes(changed)
        where = "header" if place // 8 < header_end else "data"
        try:
            found = {name: dense_bytes(tensor) for name, tensor in load_file(path).items()}
        except NmsimError:
            counts[f"{where}: refused"] += 1
            continue
        if where == "data":
            different = [name for name in good if found[name] != good[name]]
            assert len(different) <= 1, (run.seed, place, different)
            counts["data: another value or code" if different else "data: without effect"] += 1
        else:
            counts["header: valid"] += 1
    run.figures.update(counts)
    assert counts["header: refused"] > counts["header: valid"]


def dense_bytes(tensor):
    """The bytes of a tensor, decoded if it is packed."""
    return (decompress(tensor) if isinstance(tensor, PackedTensor) else np.asarray(tensor)).tobytes()


@pytest.mark.parametrize("name", sorted(READERS))
def test_the_examples_are_valid(name):
    """Damage proves something only if the file was whole before."""
    example, reader = READERS[name]
    assert complaint_of(reader, example) is None


def test_the_header_of_the_packed_example_is_what_the_format_says(tmp_path):
    """The packed example holds one entry per format."""
    raw = packed_file(tmp_path / "good.safetensors")
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert sum(key.startswith("nmsim:") for key in header["__metadata__"]) == len(FORMATS)
