"""The Triton kernel that unpacks weights: the dense rows of the plain reference and of the CPU kernels, bit for bit."""

import pytest

from nmsim.pattern import Pattern

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton_tensors import Room, any_bits, made, same_bits  # noqa: E402

from kernels import ops  # noqa: E402
from kernels.gpu.expand import columns  # noqa: E402
from kernels.gpu.movers import decompress  # noqa: E402
from kernels.ops import naive  # noqa: E402
from kernels.stored.rows import kernel_format, row_lengths  # noqa: E402

PATTERNS = ("2:4", "4:8", "8:16", "16:32", "3:7", "1:5", "1:1", "31:32", "2:8")
ENCODINGS = ("bitmask", "index", "combinatorial")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def unpacked(values, metadata, pattern, encoding, k, device):
    room = Room((len(values), k), values.dtype, device)
    decompress.launch(
        values.to(device), metadata.to(device), kernel_format(f"{pattern}/{encoding}"), room.tensor
    )
    return room.taken()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_bits_are_those_of_the_reference(pattern, encoding, triton_device):
    turn = PATTERNS.index(pattern) + ENCODINGS.index(encoding)
    # 16-bit values of the first four are spread in registers, float32 and others gathered.
    for dtype, k in ((DTYPES[turn % 2], (64, 45, 3)[turn % 3]), (DTYPES[2], 33))[: 1 + turn % 2]:
        dense = any_bits(3, k, dtype=dtype, seed=turn)
        values, metadata = naive.compress(dense, f"{pattern}/{encoding}")
        want = naive.decompress(values, metadata, f"{pattern}/{encoding}", k)
        assert same_bits(unpacked(values, metadata, pattern, encoding, k, triton_device), want)
        assert same_bits(want, dense.where(naive.prune(dense, Pattern.parse(pattern)), 0))


@pytest.mark.parametrize(
    ("pattern", "dtype"), [("8:16", torch.float16), ("16:32", torch.float16), ("3:7", torch.float32)]
)
def test_more_rows_and_columns_than_a_tile_are_those_of_the_cpu_kernels(pattern, dtype, triton_device):
    k = decompress.TILE_BYTES // dtype.itemsize + 21
    weight = ops.compress(made(decompress.TILE_ROWS + 3, k, dtype=dtype), f"{pattern}/bitmask")
    found = unpacked(weight.values, weight.metadata, pattern, "bitmask", k, triton_device)
    assert same_bits(found, ops.decompress(weight))
    assert ((found != 0).sum(1) >= k * Pattern.parse(pattern).n // Pattern.parse(pattern).m).all()


def test_every_mask_of_a_group_is_spread_to_its_own_places(triton_device):
    """All C(8, 4) masks of 4:8, one beside the other, and the extreme ones of 8:16 and 16:32."""
    words = {
        "4:8": [word for word in range(256) if word.bit_count() == 4],
        "8:16": [0x00FF, 0xFF00, 0x5555, 0xAAAA, 0x0FF0, 0xF00F],
        "16:32": [0x0000FFFF, 0xFFFF0000, 0x55555555, 0xAAAAAAAA, 0x00FFFF00, 0xFF0000FF],
    }
    for pattern, masks in words.items():
        n, m = map(int, pattern.split(":"))
        metadata = torch.tensor(
            [[word >> 8 * i & 0xFF for word in masks for i in range(m // 8)]], dtype=torch.uint8
        )
        values = torch.arange(1, len(masks) * n + 1).to(torch.float16)[None]
        found = unpacked(values, metadata, pattern, "bitmask", len(masks) * m, triton_device)
        kept = torch.tensor([bool(word >> i & 1) for word in masks for i in range(m)])
        want = torch.zeros(len(masks) * m, dtype=torch.float16)
        want[kept] = values[0]
        assert torch.equal(found[0], want)


def test_one_wrong_bit_of_the_metadata_shows(triton_device):
    for pattern, dtype in (("8:16", torch.float16), ("8:16", torch.float32), ("3:7", torch.float16)):
        dense = made(2, 32, dtype=dtype)
        values, metadata = naive.compress(dense, f"{pattern}/bitmask")
        right = unpacked(values, metadata, pattern, "bitmask", 32, triton_device)
        metadata[1, 0] ^= 3 if metadata[1, 0] & 3 in (1, 2) else 6
        wrong = unpacked(values, metadata, pattern, "bitmask", 32, triton_device)
        assert torch.equal(right[0], wrong[0])
        assert not torch.equal(right[1], wrong[1])


def test_a_code_that_is_none_reads_values_of_its_own_group(triton_device):
    """On a device codes are not checked; behind the last value stands NaN."""
    for pattern, k in (("2:4", 16), ("3:7", 56), ("4:16", 32)):
        parsed = Pattern.parse(pattern)
        values_columns, metadata_columns = row_lengths(kernel_format(f"{parsed}/bitmask"), k)
        room = torch.full((values_columns + 64,), torch.nan, device=triton_device)
        values = room[:values_columns].view(1, -1)
        values.copy_(torch.arange(1, values_columns + 1))
        metadata = torch.full((1, metadata_columns), 0xFF, dtype=torch.uint8, device=triton_device)
        found = torch.full((1, k), torch.nan, device=triton_device)
        decompress.launch(values, metadata, kernel_format(f"{parsed}/bitmask"), found)
        of_group = (found[0, : k // parsed.m * parsed.m].cpu() - 1) // parsed.n
        assert of_group.tolist() == [i // parsed.m for i in range(k // parsed.m * parsed.m)]


@triton.jit
def columns_kernel(out, M: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr):
    tl.store(out + tl.arange(0, GROUPS * LANES), columns(2, M, GROUPS, LANES))


def test_no_column_is_written_twice(triton_device):
    for m, lanes in ((3, 4), (7, 8), (16, 16), (31, 32)):
        out = torch.empty(4 * lanes, dtype=torch.int32, device=triton_device)
        columns_kernel[(1,)](out, m, 4, lanes, enable_fp_fusion=False)
        assert [place for place in out.tolist() if place >= 0] == list(range(2 * m, 6 * m))


def test_no_rows_are_no_work(triton_device):
    empty = torch.empty(0, 8, dtype=torch.float16), torch.empty(0, 2, dtype=torch.uint8)
    assert unpacked(*empty, "8:16", "bitmask", 16, triton_device).shape == (0, 16)
