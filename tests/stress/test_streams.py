"""Streams that no encoder wrote: refused, or exactly what the encoder writes for the masks that were read."""

from collections import Counter

from nmsim import NmsimError, encodings, packing
from nmsim.pattern import Pattern

PARAMETERS = {"gap": (1, 16), "joint": (1, 8)}
"""Encodings with a parameter, and the range that is drawn from."""

POLICIES = ("bitstream", "byte", "power_of_two", "no_straddle:32", "no_straddle:64")
KINDS = ("random", "flipped", "cut", "longer", "ones")


def drawn_pattern(rng):
    """One pattern; most are small, some take several words of 64 bits."""
    top = (4, 8, 16, 32, 64, 90)[rng.integers(6)]
    m = int(rng.integers(1, top + 1))
    return Pattern(int(rng.integers(1, m + 1)), m)


def drawn_encoding(rng, pattern):
    """One encoding that has codes for a pattern, with a parameter in half of the cases that take one."""
    name = str(rng.choice(encodings.names(pattern)))
    if name in PARAMETERS and rng.random() < 0.5:
        low, high = PARAMETERS[name]
        name = f"{name}:{rng.integers(low, high + 1)}"
    return encodings.get(name)


def legal_masks(rng, pattern, n_groups):
    """Masks with exactly N ones, as Python integers."""
    rows = [rng.permutation(pattern.m)[: pattern.n] for _ in range(n_groups)]
    return [sum(1 << int(position) for position in row) for row in rows]


def drawn_stream(rng, legal, kind):
    """A stream of the given kind, made from a legal one or from nothing."""
    if kind == "random":
        return rng.bytes(len(legal))
    if kind == "ones":
        return b"\xff" * len(legal)
    if kind == "cut":
        return legal[: int(rng.integers(0, len(legal) + 1))]
    if kind == "longer":
        return legal + rng.bytes(int(rng.integers(1, 9)))
    changed = bytearray(legal)
    for _ in range(int(rng.integers(1, 4)) if changed else 0):
        changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def read_or_complaint(encoding, stream, pattern, n_groups, policy):
    """Read a stream: the masks, or the error that it ends with."""
    try:
        return encoding.read_stream(stream, pattern, n_groups, policy), ""
    except NmsimError as error:
        return None, str(error)


def test_streams(run):
    """A stream that is accepted is canonical: writing the masks that were read gives its bytes again."""
    rng, total, variants = run.rng(), run.size("streams"), 50
    counts: Counter[str] = Counter()
    while counts["tried"] < total:
        pattern = drawn_pattern(rng)
        encoding = drawn_encoding(rng, pattern)
        policy = str(rng.choice(POLICIES))
        if policy.startswith("no_straddle") and encoding.code_bits(pattern) > int(policy.partition(":")[2]):
            policy = "byte"
        n_groups = int(rng.integers(0, 9))
        try:
            codes = encoding.encode(legal_masks(rng, pattern, n_groups), pattern)
            lengths = encoding.code_lengths(codes, pattern)
            stream = packing.pack(codes, encoding.code_bits(pattern), policy, lengths).tobytes()
        except NmsimError:
            counts["combinations that do not exist"] += 1
            continue
        # The masks are drawn once per 50 streams: drawing them takes longer than reading a stream.
        for _ in range(variants):
            changed = drawn_stream(rng, stream, KINDS[rng.integers(len(KINDS))])
            counts["tried"] += 1
            masks, complaint = read_or_complaint(encoding, changed, pattern, n_groups, policy)
            if masks is None:
                counts["refused"] += 1
                assert 0 < len(complaint) <= 300, (run.seed, pattern, encoding, changed)
                assert complaint.isprintable(), (run.seed, pattern, encoding, changed)
                continue
            counts["accepted"] += 1
            again, _ = encoding.write_stream(masks, pattern, policy)
            assert again.tobytes() == changed, (run.seed, pattern, encoding, policy, n_groups, changed)
            counts["accepted although changed"] += changed != stream
        run.tell(counts["tried"], total)
    assert min(counts["refused"], counts["accepted although changed"]) > total // 100
    run.figures.update(counts)
