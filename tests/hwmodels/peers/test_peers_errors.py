"""What the peers get wrong, and that ours does not: free metadata, utilisation above one, rounding, free activations."""

import pytest

import hwmodels
from hwmodels.estimate.bounds import DENSE_STREAM, metadata_bits, stream, traffic
from hwmodels.peers import scalesim_cycles, sparseloop_cycles
from nmsim import encodings
from nmsim.case import Case, GemmShape
from nmsim.errors import EncodingError
from nmsim.format import SparseFormat, as_format, sparse_format
from nmsim.pattern import Pattern

CUBE = GemmShape(1024, 1024, 1024)
KINDS = [("2:4", "index"), ("4:8", "index"), ("2:4", "bitmask"), ("2:4", "combinatorial"), ("8:16", "index")]


def moved(pattern, encoding, value_bits=16, packing="bitstream"):
    how = stream(sparse_format(Pattern.parse(pattern), encoding=encoding, packing=packing))
    return traffic(1024, 1024, 1024, value_bits, how, False, False)


def test_metadata_cost_bytes_where_scalesim_gives_them_away():
    """1, 1.5 and 1 bit an element at one half density: one number of cycles there, three of bytes here."""
    assert len({scalesim_cycles(CUBE, pattern).cycles for pattern in ("2:4", "4:8", "8:16")}) == 1
    elements = 1024 * 1024
    assert int(moved("2:4", "index").metadata_bytes) == elements * 8 // 8 // 8
    assert int(moved("4:8", "index").metadata_bytes) == elements * 12 // 8 // 8
    assert int(moved("2:4", "combinatorial").metadata_bytes) == elements * 6 // 8 // 8
    for pattern, encoding in KINDS:
        traffic_of = moved(pattern, encoding)
        without = traffic_of.values_bytes + traffic_of.dense_operand_bytes + traffic_of.output_bytes
        assert traffic_of.total_bytes > without


def test_metadata_cost_time_where_scalesim_gives_them_away():
    """One token on an H200: memory binds, and more bits of metadata take longer."""

    def seconds(pattern, encoding):
        case = Case(GemmShape(1, 4096, 4096), as_format(pattern, encoding=encoding))
        return hwmodels.predict(case, "h200").bound_memory_s

    assert seconds("2:4", "combinatorial") < seconds("2:4", "index") < seconds("4:8", "index")


def test_the_share_of_metadata_knows_the_width_of_a_value():
    """2:4 offsets: 12.5 % of the values at 16 bits, 25 % at 8, 50 % at 4; SCALE-Sim says 6.25 % of its words always."""
    assert scalesim_cycles(CUBE, "2:4").metadata_words / scalesim_cycles(CUBE, "2:4").values_words == 0.0625
    for bits, share in ((16, 0.125), (8, 0.25), (4, 0.5)):
        answer = moved("2:4", "index", value_bits=bits)
        assert int(answer.metadata_bytes) / int(answer.values_bytes) == share


@pytest.mark.parametrize("pattern", [None, "1:4", "2:4", "2:8", "4:8", "8:16"])
@pytest.mark.parametrize("machine", ["h200", "a100-sxm", "h200-8x16", "rtx4090"])
@pytest.mark.parametrize("tokens", [1, 64, 4096])
def test_no_bound_lets_an_array_do_more_than_it_can(pattern, machine, tokens):
    """SCALE-Sim reports 146 to 291 %. A sparse unit does half as many effectual MACs as its sparse peak says."""
    assert scalesim_cycles(CUBE, "2:4").reported_utilisation > 1.45
    assert scalesim_cycles(CUBE, "1:4").reported_utilisation > 2.9
    shape = GemmShape(tokens, 4096, 4096)
    spec = hwmodels.load_machine(machine)
    answer = hwmodels.predict(Case(shape, as_format(pattern, encoding="index")), machine)
    kept = 1.0 if pattern is None else float(Pattern.parse(pattern).density)
    peaks = [spec.dense_peak_flop_per_s["bf16"].value]
    if "bf16" in spec.sparse_peak_flop_per_s:
        peaks.append(spec.sparse_peak_flop_per_s["bf16"].value / 2)
    effectual_flop = 2 * shape.M * shape.N * shape.K * kept
    assert effectual_flop / (answer.bound_time_s * max(peaks)) <= 1 + 1e-12
    dense_flop = 2 * shape.M * shape.N * shape.K
    assert dense_flop / (answer.bound_dense_time_s * peaks[0]) <= 1 + 1e-12


def test_three_bits_stay_three_bits_unless_padding_is_asked_for():
    """Sparseloop charges 4 bits a kept value of 2:8, unasked. Here a policy has to say so."""
    pattern, groups = Pattern(2, 8), 294912 // 2
    assert sparseloop_cycles("M128-K1152-N1024", "STC_flexible", pattern).metadata_bits_per_value == 4
    asked = int(metadata_bits(groups, stream(sparse_format(pattern, encoding="index", packing="bitstream"))))
    padded = int(
        metadata_bits(groups, stream(sparse_format(pattern, encoding="index", packing="power_of_two")))
    )
    assert (asked, padded) == (294912 * 3, 294912 * 4)


def test_a_mask_of_2_in_6_is_not_taken_for_2_in_4():
    """Kept are 4 and 5 of the first six, 0 and 1 of the second: all of the second four."""
    assert sparseloop_cycles("M128-K1152-N1024", "STC", "2:6").pattern == Pattern(2, 4)
    assert encodings.get("bitmask").encode([0b110000, 0b000011], Pattern(2, 6)).tolist() == [48, 3]
    with pytest.raises(EncodingError, match="group mask 1 is 0xf, over-full with 4 kept"):
        encodings.get("bitmask").encode([0b0011, 0b1111, 0b0011], Pattern(2, 4))


def test_dense_activations_cost_what_dense_activations_cost():
    """SCALE-Sim gives every filter one mask, and reads half of the dense operand at 2:4. Ours reads all of it."""
    there = [scalesim_cycles(GemmShape(256, 256, 256), pattern).activation_elems for pattern in (None, "2:4")]
    assert there == [65536, 32768]
    sparse = stream(SparseFormat.parse("2:4/index/bitstream"))
    here = [
        int(traffic(256, 256, 256, 8, how, False, True).dense_operand_bytes) for how in (DENSE_STREAM, sparse)
    ]
    assert here == [65536, 65536]
