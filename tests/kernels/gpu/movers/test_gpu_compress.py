"""The Triton kernel that packs weights: the bytes of the plain reference, of the CPU kernels and of nmsim."""

import pytest

import nmsim
from nmsim.errors import PatternError
from nmsim.pattern import Pattern

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from triton_tensors import Room, any_bits, made, same_bits  # noqa: E402

from kernels import cpu  # noqa: E402
from kernels.gpu.bits import binomials  # noqa: E402
from kernels.gpu.movers import compress, decompress, units  # noqa: E402
from kernels.ops import naive  # noqa: E402
from kernels.stored.nm_weight import as_array  # noqa: E402
from kernels.stored.rows import kernel_format, row_lengths  # noqa: E402

PATTERNS = ("2:4", "4:8", "8:16", "16:32", "3:7", "1:5", "1:1", "1:32", "5:9")
ENCODINGS = ("bitmask", "index", "combinatorial")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def packed(dense, pattern, encoding, device, mask=None):
    values_columns, metadata_columns = row_lengths(kernel_format(f"{pattern}/{encoding}"), dense.shape[1])
    values = Room((len(dense), values_columns), dense.dtype, device)
    metadata = Room((len(dense), metadata_columns), torch.uint8, device)
    mask = None if mask is None else mask.to(device)
    compress.launch(
        dense.to(device), kernel_format(f"{pattern}/{encoding}"), (values.tensor, metadata.tensor), mask=mask
    )
    return values.taken(), metadata.taken()


def some_of(mask, seed):
    """Keep about half of what a mask keeps, of the first row nothing."""
    fewer = mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.5)
    fewer[0] = False
    return fewer


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_mask_gives_the_bytes_of_the_reference_and_of_nmsim(pattern, encoding, triton_device):
    turn = PATTERNS.index(pattern) + ENCODINGS.index(encoding)
    dtype, k = DTYPES[turn % 3], (64, 33, 47, 5)[turn % 4]
    dense = any_bits(3, k, dtype=dtype, seed=turn)
    full = naive.prune(made(3, k, seed=turn), Pattern.parse(pattern))
    for mask in (full, some_of(full, turn))[turn % 2 :]:
        values, metadata = packed(dense, pattern, encoding, triton_device, mask)
        want = naive.compress(dense, f"{pattern}/{encoding}", mask=mask)
        assert same_bits(values, want[0])
        assert torch.equal(metadata, want[1])
        by_cpu = cpu.compress(as_array(dense), f"{pattern}/{encoding}", mask=mask.numpy())
        assert as_array(values).tobytes() == by_cpu.values.tobytes()
        assert metadata.numpy().tobytes() == by_cpu.metadata.tobytes()


@pytest.mark.parametrize(
    ("pattern", "encoding"), [("8:16", "bitmask"), ("3:7", "combinatorial"), ("4:8", "index")]
)
def test_without_a_mask_the_greatest_are_kept_and_nan_is_above_infinity(pattern, encoding, triton_device):
    dense = any_bits(3, 45, dtype=torch.float16)
    dense[1] = made(45).sign()  # ties
    dense[2, :6] = torch.tensor([torch.inf, torch.nan, 1.0, -torch.inf, 2.0, torch.nan])
    values, metadata = packed(dense, pattern, encoding, triton_device)
    mask = nmsim.prune(as_array(dense), pattern, bit_order=True)
    by_cpu = cpu.compress(as_array(dense), f"{pattern}/{encoding}", mask=mask)
    assert as_array(values).tobytes() == by_cpu.values.tobytes()
    assert metadata.numpy().tobytes() == by_cpu.metadata.tobytes()


@pytest.mark.parametrize(("pattern", "encoding"), [("8:16", "index"), ("3:7", "bitmask")])
def test_rows_longer_than_a_tile_go_there_and_back(pattern, encoding, triton_device):
    dense = made(2, units.TILE_ELEMS + 37, dtype=torch.float16)
    mask = some_of(naive.prune(dense, Pattern.parse(pattern)), 1)
    values, metadata = packed(dense, pattern, encoding, triton_device, mask)
    by_cpu = cpu.compress(as_array(dense), f"{pattern}/{encoding}", mask=mask.numpy())
    assert as_array(values).tobytes() == by_cpu.values.tobytes()
    assert metadata.numpy().tobytes() == by_cpu.metadata.tobytes()
    back = torch.full_like(dense, torch.nan).to(triton_device)
    decompress.launch(
        values.to(triton_device), metadata.to(triton_device), kernel_format(f"{pattern}/{encoding}"), back
    )
    assert same_bits(back.cpu(), dense.where(mask, 0))


@pytest.mark.parametrize(("pattern", "k", "places", "text"), [
    ("2:4", 24, (13, 14, 15), "mask row 1, group 3 (elements 12 to 15) keeps 3: expected at most 2 of every 4"),
    ("3:7", 12, (7, 8, 10, 11), "mask row 1, group 1 (elements 7 to 11) keeps 4: expected at most 3 of every 7"),
    ("8:16", 2048, range(1984, 2000), "mask row 1, group 124 (elements 1984 to 1999) keeps 16: expected at most 8 of every 16"),
])  # fmt: skip
def test_a_mask_that_keeps_too_many_is_refused_as_nmsim_does(pattern, k, places, text, triton_device):
    dense, mask = made(2, k, dtype=torch.float16), torch.zeros(2, k, dtype=torch.bool)
    mask[1, list(places)] = True
    for method in (
        lambda: packed(dense, pattern, "index", triton_device, mask),
        lambda: cpu.compress(as_array(dense), f"{pattern}/index", mask=mask.numpy()),
    ):
        with pytest.raises(PatternError) as error:
            method()
        assert str(error.value) == text


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_each_group_of_a_unit_is_looked_at(pattern, triton_device):
    parsed = Pattern.parse(pattern)
    for group in range(16 // parsed.m):
        mask = torch.zeros(1, 16, dtype=torch.bool)
        mask[0, group * parsed.m :][: parsed.n + 1] = True
        with pytest.raises(PatternError, match=f"group {group} .* keeps {parsed.n + 1}"):
            packed(made(1, 16, dtype=torch.float16), pattern, "combinatorial", triton_device, mask)


def test_a_mask_that_keeps_too_many_reads_nothing_behind_the_table(monkeypatch, triton_device):
    """What is stored then means nothing, but must not hang on what lies behind the binomials."""
    parsed, mask = Pattern(2, 4), torch.ones(1, 16, dtype=torch.bool, device=triton_device)
    dense, table = made(1, 16, dtype=torch.float16).to(triton_device), binomials(parsed, mask.device)
    found = []
    for behind in (0, 0x7FFFFFFF):
        room = torch.cat([table, table.new_full((64,), behind)])
        monkeypatch.setattr(compress, "code_table", lambda *about, room=room: room[: len(table)])
        out = [
            dense.new_empty(1, columns)
            for columns in row_lengths(kernel_format(f"{parsed}/combinatorial"), 16)
        ]
        codes = out[1].to(torch.uint8)
        assert compress.enqueue(dense, mask, kernel_format(f"{parsed}/combinatorial"), (out[0], codes)).all()
        found.append(codes)
    assert torch.equal(*found)


def test_any_byte_but_zero_is_true(triton_device):
    """A mask made of bytes by `view`, which torch allows."""
    for pattern, dtype in (("2:4", torch.float16), ("2:4", torch.float32), ("3:7", torch.float16)):
        dense = made(2, 28, dtype=dtype)
        mask = naive.prune(dense, Pattern.parse(pattern))
        odd = (mask.to(torch.uint8) * 2).view(torch.bool)
        for found, want in zip(
            packed(dense, pattern, "bitmask", triton_device, odd),
            packed(dense, pattern, "bitmask", triton_device, mask),
            strict=True,
        ):
            assert same_bits(found, want)


def test_no_rows_are_no_work(triton_device):
    values, metadata = packed(torch.empty(0, 16), "8:16", "bitmask", triton_device)
    assert values.shape == (0, 8)
    assert metadata.shape == (0, 2)


def test_packing_without_waiting_says_where_a_tile_keeps_too_many(triton_device):
    k, pattern = 1536, Pattern(8, 16)
    tile = units.tile_constants(kernel_format(f"{pattern}/bitmask"), k, torch.float16)["GROUPS"] * pattern.m
    assert tile == k // 3
    dense, mask = made(3, k, dtype=torch.float16), torch.zeros(3, k, dtype=torch.bool)
    mask[1, tile : tile + 9] = True
    mask[2, 5:13] = True
    values_columns, metadata_columns = row_lengths(kernel_format(f"{pattern}/bitmask"), k)
    values = Room((3, values_columns), dense.dtype, triton_device)
    metadata = Room((3, metadata_columns), torch.uint8, triton_device)
    on_device = mask.to(triton_device)
    overfull = compress.enqueue(
        dense.to(triton_device),
        on_device,
        kernel_format(f"{pattern}/bitmask"),
        (values.tensor, metadata.tensor),
    )
    assert overfull.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    with pytest.raises(PatternError, match="mask row 1, group 32 .* keeps 9: expected at most 8 of every 16"):
        compress.check_fit(overfull, on_device, pattern)
    by_cpu = cpu.compress(as_array(dense[2:]), f"{pattern}/bitmask", mask=mask[2:].numpy())
    assert as_array(values.taken()[2:]).tobytes() == by_cpu.values.tobytes()
    compress.check_fit(overfull[2:], on_device[2:], pattern)
