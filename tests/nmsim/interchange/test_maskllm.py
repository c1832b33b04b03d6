"""MaskLLM masks: bits of numpy, most significant first, without shapes."""

import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsim import load_file, save_file
from nmsim.errors import NmsimError
from nmsim.interchange import convert_checkpoint, detect_format

NAME = "model.layers.0.mlp.up_proj.weight"


def legal_mask(rows, columns, seed):
    """Two of four, at random."""
    order = np.random.default_rng(seed).random((rows, columns // 4, 4)).argsort(axis=2)
    return (order < 2).reshape(rows, columns)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 30), groups=st.integers(1, 20), seed=st.integers(0, 2**32 - 1), zeros=st.booleans()
)
def test_masks_come_back_byte_for_byte(tmp_path_factory, rows, groups, seed, zeros):
    """Through a packed file of nmsim, which keeps the positions, even if kept weights are zero."""
    folder = tmp_path_factory.mktemp("masks")
    mask = legal_mask(rows, 4 * groups, seed)
    weight = np.random.default_rng(seed).integers(1, 100, mask.shape).astype(np.float16) * (not zeros)
    save_file({NAME: weight, "norm.weight": np.ones(4)}, folder / "model.safetensors")
    np.savez_compressed(folder / "mask.npz", **{f"{NAME}.mask": np.packbits(mask)})
    convert_checkpoint(
        folder / "mask.npz",
        folder / "n.safetensors",
        to="nmsim",
        format="2:4",
        weights=folder / "model.safetensors",
    )
    convert_checkpoint(folder / "n.safetensors", folder / "again.npz")
    assert (folder / "again.npz").read_bytes() == (folder / "mask.npz").read_bytes()


def test_the_mask_is_laid_on_the_weights(tmp_path):
    weight = np.array([[1, 2, 3, 4, 5, 6, 7, 8]], np.float32)
    mask = np.array([[1, 0, 0, 1, 0, 1, 1, 0]], bool)
    save_file({NAME: weight, "norm.weight": np.ones(4)}, tmp_path / "model.safetensors")
    np.savez_compressed(tmp_path / "mask.npz", **{f"{NAME}.mask": np.array([0b10010110], np.uint8)})
    assert detect_format(tmp_path / "mask.npz") == "maskllm"
    convert_checkpoint(
        tmp_path / "mask.npz", tmp_path / "y.safetensors", weights=tmp_path / "model.safetensors"
    )
    dense = load_file(tmp_path / "y.safetensors")
    assert dense[NAME].tolist() == (weight * mask).tolist()
    assert dense["norm.weight"].tolist() == [1] * 4
    convert_checkpoint(tmp_path / "y.safetensors", tmp_path / "back.npz")
    assert np.load(tmp_path / "back.npz")[f"{NAME}.mask"].tolist() == [0b10010110]


def write_entry(path, name, payload):
    """An archive with one entry of any bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, payload)


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        ({"other.weight.mask": np.zeros(8, np.uint8)}, "expected NAME.mask.npy"),
        ({NAME: np.zeros(8, np.uint8)}, "expected NAME.mask.npy"),
        ({f"{NAME}.mask": np.zeros(9, np.uint8)}, "expected uint8 .8."),
        ({f"{NAME}.mask": np.zeros(8, np.float32)}, "expected uint8 .8."),
        ({f"{NAME}.mask": np.array([{}] * 8)}, "expected uint8 .8."),
        ({f"{NAME}.mask": np.full(8, 0x11, np.uint8)}, "byte 0 is 0x11, expected 2 bits"),
        ({"norm.weight.mask": np.zeros(8, np.uint8)}, "expected a matrix"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path, masks, expected):
    save_file(
        {NAME: np.ones((4, 16), np.float16), "norm.weight": np.ones(64)}, tmp_path / "model.safetensors"
    )
    np.savez_compressed(tmp_path / "mask.npz", **masks)
    with pytest.raises(NmsimError, match=expected) as error:
        convert_checkpoint(
            tmp_path / "mask.npz", tmp_path / "y.safetensors", weights=tmp_path / "model.safetensors"
        )
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300
    assert not (tmp_path / "y.safetensors").exists()


@pytest.mark.parametrize("payload", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x08\x00garbage!", b"no array"])
def test_an_entry_that_is_no_array_is_refused(tmp_path, payload):
    save_file({NAME: np.ones((4, 16), np.float16)}, tmp_path / "model.safetensors")
    write_entry(tmp_path / "mask.npz", f"{NAME}.mask.npy", payload)
    with pytest.raises(NmsimError, match="no numpy array"):
        convert_checkpoint(
            tmp_path / "mask.npz", tmp_path / "y.safetensors", weights=tmp_path / "model.safetensors"
        )


def test_a_damaged_archive_is_refused(tmp_path):
    save_file({NAME: np.ones((4, 16), np.float16)}, tmp_path / "model.safetensors")
    np.savez_compressed(tmp_path / "mask.npz", **{f"{NAME}.mask": np.packbits(legal_mask(4, 16, 0))})
    raw = (tmp_path / "mask.npz").read_bytes()
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        spoiled = bytearray(raw)
        spoiled[int(draw.integers(4, len(raw)))] ^= 1 << int(draw.integers(8))
        (tmp_path / "bad.npz").write_bytes(
            spoiled[: None if draw.random() < 0.7 else int(draw.integers(4, len(raw)))]
        )
        try:
            convert_checkpoint(
                tmp_path / "bad.npz",
                tmp_path / "y.safetensors",
                weights=tmp_path / "model.safetensors",
                force=True,
            )
        except NmsimError as error:
            refused += "\n" not in str(error)
    assert refused > 100


def test_masks_need_their_checkpoint(tmp_path):
    np.savez_compressed(tmp_path / "mask.npz", **{f"{NAME}.mask": np.zeros(8, np.uint8)})
    with pytest.raises(NmsimError, match="expected the checkpoint it belongs to"):
        convert_checkpoint(tmp_path / "mask.npz", tmp_path / "y.safetensors")
    save_file({NAME: np.ones((4, 16), np.float16)}, tmp_path / "model.safetensors")
    with pytest.raises(NmsimError, match="has its own weights"):
        convert_checkpoint(
            tmp_path / "model.safetensors",
            tmp_path / "y.safetensors",
            to="nmsim",
            weights=tmp_path / "model.safetensors",
        )
