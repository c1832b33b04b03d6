"""What each encoding detects, against counts that follow from its definition."""

import itertools
import math
import re
from fractions import Fraction

import numpy as np
import pytest

from nmsim import encodings, packing
from nmsim.encodings.bitmask import Bitmask
from nmsim.errors import BitstreamError, EncodingError
from nmsim.faults import FaultCounts, inject, survey
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern

ALL_2_OF_4 = [0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100]
PATTERNS = [Pattern(1, 2), Pattern(2, 4), Pattern(4, 8), Pattern(8, 16), Pattern(3, 7)]


@pytest.mark.parametrize("pattern", [*PATTERNS, Pattern(16, 32), Pattern(40, 80)], ids=str)
def test_bitmask_detects_every_single_flip(pattern):
    report = survey(f"{pattern}/bitmask", n_streams=2)
    assert report.payload == FaultCounts(detected=2 * 8 * pattern.m)
    assert report.payload.share_detected == 1


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_bitmask_misses_pairs_that_move_one_element(pattern):
    groups, streams = 4, 3
    report = survey(f"{pattern}/bitmask", flips=2, n_groups=groups, n_streams=streams)
    moves = streams * groups * pattern.n * (pattern.m - pattern.n)
    assert report.payload.silent == report.payload.wrong_groups == moves
    assert report.payload.faults == streams * math.comb(groups * pattern.m, 2)
    assert report.payload.harmless == 0


def test_combinatorial_2_of_4_detects_two_ninths_of_single_flips():
    # Codes 0 to 5 in three bits; 6 and 7 are illegal, one flip away from 010, 011, 100 and 101 each.
    leads_out = sum(code ^ 1 << bit >= 6 for code in range(6) for bit in range(3))
    assert leads_out == 4
    report = inject(ALL_2_OF_4, "2:4/combinatorial")
    assert report.payload == FaultCounts(detected=4, silent=14, wrong_groups=14)
    assert report.payload.share_detected == Fraction(2, 9)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_combinatorial_detects_only_codes_out_of_range(pattern):
    rng = np.random.default_rng(3)
    masks = [sum(1 << int(p) for p in rng.permutation(pattern.m)[: pattern.n]) for _ in range(16)]
    codec = encodings.get("combinatorial")
    codes = [int(code) for code in codec.encode(masks, pattern)]
    flips = [code ^ 1 << bit for code in codes for bit in range(codec.code_bits(pattern))]
    detected = sum(code >= pattern.configurations for code in flips)
    silent = len(flips) - detected
    report = inject(masks, f"{pattern}/combinatorial")
    assert report.payload == FaultCounts(detected=detected, silent=silent, wrong_groups=silent)


def test_index_2_of_4_detects_half_of_single_flips():
    legal = {0x4, 0x8, 0x9, 0xC, 0xD, 0xE}
    detected = sum(nibble ^ 1 << bit not in legal for nibble in legal for bit in range(4))
    assert detected == 12
    report = inject(ALL_2_OF_4, "2:4/index")
    assert report.payload == FaultCounts(detected=12, silent=12, wrong_groups=12)


def test_index_2_of_4_pairs_within_one_nibble():
    legal = {0x4, 0x8, 0x9, 0xC, 0xD, 0xE}
    pairs = [1 << a | 1 << b for a, b in itertools.combinations(range(4), 2)]
    for mask in ALL_2_OF_4:
        nibble = int(encodings.get("index").encode([mask], Pattern(2, 4))[0])
        silent = sum(nibble ^ pair in legal for pair in pairs)
        report = inject([mask], "2:4/index", flips=2)
        assert report.payload == FaultCounts(detected=6 - silent, silent=silent, wrong_groups=silent)


def test_joint_spreads_a_flip_over_several_groups():
    report = survey("2:4/joint:10", n_streams=4)
    assert report.payload.faults == 4 * 26
    assert report.payload.wrong_groups > report.payload.silent


@pytest.mark.parametrize("encoding", ["bitmask", "index", "gap", "gap:2", "combinatorial", "joint:3"])
@pytest.mark.parametrize("policy", ["bitstream", "power_of_two", "byte"])
def test_single_flips_of_padding_are_always_detected(encoding, policy):
    pattern = Pattern(3, 7)
    report = survey(f"{pattern}/{encoding}/{policy}", n_groups=3, n_streams=6)
    assert report.padding.faults == report.padding.detected
    assert report.payload.harmless == 0
    assert report.total == report.payload + report.padding
    if (encoding, policy) == ("combinatorial", "byte"):  # 6-bit codes in 8-bit slots
        assert (report.payload.faults, report.padding.faults) == (6 * 3 * 6, 6 * 3 * 2)


def test_padding_of_no_straddle_is_told_from_payload():
    report = survey("8:16/combinatorial/no_straddle:32", n_groups=3, n_streams=1)
    assert (report.payload.faults, report.padding.faults) == (3 * 14, 64 - 3 * 14)
    assert report.padding.share_detected == 1


def test_a_pair_counts_as_padding_when_one_bit_is():
    report = inject([0b0011], "2:4/combinatorial", flips=2)
    stream_bits = 8 * len(packing.pack([0], 3))
    assert report.payload.faults == math.comb(3, 2)
    assert report.total.faults == math.comb(stream_bits, 2)


def test_a_pattern_without_choice_has_no_bits_to_flip():
    report = survey("4:4/combinatorial", n_streams=1)
    assert report.total == FaultCounts()
    assert report.payload.share_detected is None


def test_same_seed_same_counts():
    first, again, other = (survey("4:8/index", seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_report_names_what_was_asked():
    report = survey("2:4/joint/byte", flips=1, n_streams=1)
    assert (str(report.format), report.flips) == ("2:4/joint/byte", 1)


class Forgiving(Bitmask):
    """A decoder that repairs everything, which no real one can."""

    def read_stream(self, stream, pattern, n_groups, policy="bitstream", *, threads=1):
        return np.full(n_groups, 0b0011, np.uint8)


class Crashing(Bitmask):
    """A decoder with a bug."""

    def read_stream(self, stream, pattern, n_groups, policy="bitstream", *, threads=1):
        raise IndexError("bug")


def test_a_flip_without_effect_is_harmless():
    assert inject([0b0011, 0b0011], SparseFormat(Pattern(2, 4), Forgiving())).total == FaultCounts(harmless=8)


def test_a_crash_is_not_taken_for_detection():
    with pytest.raises(IndexError, match="bug"):
        inject([0b0011], SparseFormat(Pattern(2, 4), Crashing()))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"flips": 3}, "flips=3 (type int): expected 1 or 2"),
        ({"flips": True}, "flips=True (type bool): expected 1 or 2"),
        ({"n_groups": 0}, "n_groups=0 (type int): expected a positive int"),
        ({"n_streams": 1.5}, "n_streams=1.5 (type float): expected a positive int"),
    ],
)
def test_rejects_bad_counts(options, text):
    with pytest.raises(EncodingError, match=re.escape(text)):
        survey("2:4/bitmask", **options)


def test_rejects_what_the_parts_reject():
    with pytest.raises(EncodingError, match="encoding 'bitmap'"):
        survey("2:4/bitmap")
    with pytest.raises(BitstreamError, match="packing 'tight'"):
        survey("2:4/bitmask/tight")
    with pytest.raises(EncodingError, match="over-full"):
        inject([0b0111], "2:4/bitmask")
