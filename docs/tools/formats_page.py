"""The formats page, written from the records of the encodings and from codes that they make."""

from collections.abc import Iterator

from nmsim import encodings, faults, packing
from nmsim.encodings.base import Encoding
from nmsim.encodings.unstructured import COO, CSR
from nmsim.packing import POLICIES
from nmsim.pattern import Pattern
from nmsim.units import percent

FORMAT_VERSION = "1"

EXAMPLE_PATTERN = Pattern(3, 8)
EXAMPLE_MASKS = (0b0010_0110, 0b1100_0001, 0b0000_0111)
TABLE_PATTERNS = (
    "1:2",
    "1:4",
    "2:4",
    "2:8",
    "4:8",
    "6:8",
    "4:16",
    "8:16",
    "16:32",
    "4:256",
    "8:256",
    "16:256",
)
FAULT_PATTERNS = ("2:4", "4:8", "8:16")
PACKING_PATTERNS = ("2:4", "4:8", "8:16", "16:32")

CHANGES = (
    (
        "1",
        "first version: five encodings, four packing policies, linear layout; later `tiled`, which changes no other code",
    ),
)

PREAMBLE = f"""# The metadata formats

Format version {FORMAT_VERSION}. This page is enough to write an encoder and a decoder. The rule of `tiled` stands on
[a page of its own](../explanation/tiled-code.md). `make docs` generates this page from the records in `nmsim/encodings/` and
from codes that the package makes. `nmsim/reference/` is a plain
decoder in the order of this page.

## Words and conventions

- A **pattern** N:M keeps N of every M consecutive elements along one axis, the pruned axis. N counts what is *kept*.
- A **group** is M consecutive elements, counted from the start of the axis. Its **mask** is an M-bit integer: bit i, of
  value 2^i, is 1 when element i of the group is kept.
- A **code** is the unsigned integer that an encoding gives a mask. A **stream** is the bytes of all codes.
- Bit order is least significant first everywhere. Bit k of a stream is bit k mod 8 (value 2^(k mod 8)) of byte floor(k / 8).
  The lowest bit of a code comes first.
- Group order: all groups of row 0 from the start of the pruned axis, then those of row 1, and so on. Rows are all other
  axes in C order. Rows are not aligned: the first code of a row follows the last code of the row before.
- **Values** are stored beside the stream: N per group, in ascending position, in the same group order.

## What every encoder does first

1. **Choice.** The N elements of greatest score are kept. Of equal scores, the lower index is kept. Unless scores are given,
   the score is the magnitude. Magnitudes of floating-point types are compared by their stored bits. The sign bit is
   cleared, and the bits are read as an unsigned integer. So -0.0 equals 0.0. Magnitudes of integers are their absolute values
   (that of -128 is 128). An element that is NaN or infinite is refused, and so is a score that is NaN. A selector in hardware
   (`prune(..., bit_order=True)`) refuses nothing: there infinity is above every finite number, and NaN is above infinity.
2. **Tail.** If M does not divide the axis, the last group of a row has elements that do not exist. They count as not
   kept. t existing elements keep min(N, t).
3. **Completion.** A legal mask has exactly N ones. If a group has fewer kept elements, the lowest positions that are not
   kept are added until it has N. The value stored for an added position is zero. A group with more than N kept elements is
   over-full and refused.

A decoder gives back every stored value at its position and zero elsewhere. A value other than zero for an element beyond the
end of a row is refused.
"""

POLICY_TEXT = {
    "bitstream": "Codes follow each other without a space.",
    "no_straddle": (
        "`no_straddle:W`, W = 8, 16, 32 (default), 64 or 128: no code crosses a W-bit word. A word holds floor(W / bits) "
        "codes from its low end. A code longer than W starts a word and takes ceil(bits / W) of them. The stream is "
        "whole words. Codes of differing lengths are refused, because they cannot be distinguished from padding."
    ),
    "power_of_two": "Each code is followed by zeros up to the next power of two of its length.",
    "byte": "Each code is followed by zeros up to whole bytes.",
}

POLICY_RULES = """Bits of codes are **payload**. Unused bits before the end of the last code, or inside its slot, are
**padding**. Unused bits after that, up to whole bytes (whole words under `no_straddle`), are **alignment**. All three are
reported separately, and their sum is the stream. A decoder refuses a stream that is shorter or longer than this, and any
padding or alignment bit that is 1.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [PREAMBLE, "## Encodings\n", _table(), "\n"]
    for name in encodings.names():
        parts.extend(_section(encodings.get(name)))
    parts.extend(_unstructured())
    parts.extend(_packing())
    parts.extend(_flipped_bits())
    parts.append("## Changes\n\n" + "\n".join(f"- {version}: {text}." for version, text in CHANGES) + "\n")
    return "\n".join(parts)


def _table() -> str:
    names = encodings.names()
    head = ["pattern", "masks C(M, N)", *names, "entropy bound", "best bits per element"]
    lines = [_row(head), _row(["---"] * len(head))]
    for text in TABLE_PATTERNS:
        pattern = Pattern.parse(text)
        best = min(
            encodings.get(n).expected_bits_per_group(pattern) / pattern.m for n in encodings.names(pattern)
        )
        masks = pattern.configurations
        lines.append(
            _row(
                [
                    text,
                    str(masks) if masks < 10**10 else f"{masks:.4g}",
                    *(_bits(encodings.get(n), pattern) for n in names),
                    f"{pattern.entropy_bits:.3f}",
                    f"{float(best):.4g}",
                ]
            )
        )
    note = (
        "\nBits per group. For `joint`: bits per code / groups per code. A dash: no codes for this pattern.\n"
    )
    return "\n".join(lines) + "\n" + note


def _bits(codec: Encoding, pattern: Pattern) -> str:
    if not codec.supports(pattern):
        return "-"
    groups = codec.groups_per_code(pattern)
    return str(codec.code_bits(pattern)) if groups == 1 else f"{codec.code_bits(pattern)}/{groups}"


def _section(codec: Encoding) -> Iterator[str]:
    spec = codec.spec
    yield f"### `{spec.name}`: {spec.title}\n"
    rows = [
        ("bits of a code", spec.bits_formula),
        ("code", spec.code_definition),
        ("decoding", spec.decoding),
        (
            "width",
            "the same for all codes of a pattern"
            if spec.fixed_width
            else "differs from code to code if there are escapes",
        ),
        ("parameter", f"`{spec.name}:n`: {spec.parameter}" if spec.parameter else "none"),
        ("always detected", spec.detects),
        ("source", spec.source),
    ]
    yield "\n".join(["| | |", "|---|---|", *(_row(row) for row in rows)]) + "\n"
    shown = [codec] if spec.fixed_width else [codec, encodings.get(f"{spec.name}:2")]
    for one in shown:
        yield from _worked_example(one)


def _worked_example(codec: Encoding) -> Iterator[str]:
    """Three groups, line by line: mask, code, bits of the stream, bytes."""
    pattern = EXAMPLE_PATTERN
    bits = codec.code_bits(pattern)
    codes = codec.encode(list(EXAMPLE_MASKS), pattern)
    lengths = codec.code_lengths(codes, pattern)
    stream, report = codec.write_stream(
        encodings.get("bitmask").encode(list(EXAMPLE_MASKS), pattern), pattern, "bitstream"
    )
    yield f"Example, `{codec.name}` at {pattern} (bits are written highest first, as in a number):\n"
    lines = ["```"]
    for g, mask in enumerate(EXAMPLE_MASKS):
        kept = [i for i in range(pattern.m) if mask >> i & 1]
        lines.append(f"group {g}   kept {kept}   mask {mask:0{pattern.m}b}")
    per_code = codec.groups_per_code(pattern)
    for c, code in enumerate(codes):
        width = bits if lengths is None else int(lengths[c])
        covered = range(c * per_code, min((c + 1) * per_code, len(EXAMPLE_MASKS)))
        who = f"group {covered[0]}" if len(covered) == 1 else f"groups {covered[0]} to {covered[-1]}"
        lines.append(f"{who:<14} code {int(code):>6} = {int(code):0{width}b}  ({width} bits)")
    # Bytes are reversed, so that the highest bit of the stream is printed first.
    whole = "".join(f"{byte:08b}" for byte in stream[::-1])
    lines.append(f"stream, last bit first   {whole}")
    lines.append(f"stream, bytes in order   {' '.join(f'{byte:02x}' for byte in stream)}")
    lines.append(
        f"{report.payload_bits} payload bits, {report.padding_bits} padding bits, {report.alignment_bits} alignment bits"
    )
    lines.append("```\n")
    yield "\n".join(lines)


def _unstructured() -> Iterator[str]:
    yield "### Unstructured formats, for comparison\n"
    yield (
        "These have a footprint only. Nothing is encoded in them (`encodings.csr_bits`, `encodings.coo_bits`).\n\n"
        + "\n".join(
            ["| format | | bits | source |", "|---|---|---|---|"]
            + [_row([f"`{s.name}`", s.title, s.bits_formula, s.source]) for s in (CSR, COO)]
        )
        + "\n"
    )


def _packing() -> Iterator[str]:
    yield "## Packing\n"
    yield "\n".join(f"- **`{name}`**: {POLICY_TEXT[name]}" for name in POLICIES) + "\n"
    yield POLICY_RULES
    names = [n for n in encodings.names() if n not in ("joint",)]
    lines = [_row(["pattern", "encoding", *POLICIES]), _row(["---"] * (2 + len(POLICIES)))]
    count = 1 << 12
    for text in PACKING_PATTERNS:
        pattern = Pattern.parse(text)
        for name in names:
            codec = encodings.get(name)
            cells = [
                f"{packing.stream_bits(count, codec.code_bits(pattern), policy) / (count * pattern.m):.4g}"
                for policy in POLICIES
            ]
            lines.append(_row([text, name, *cells]))
    yield "\n".join(lines) + f"\n\nBits per element of a stream of {count} codes, padding included.\n"


def _flipped_bits() -> Iterator[str]:
    yield "## What a flipped bit does\n"
    yield (
        "Every bit of streams of random masks is flipped, one at a time, in `bitstream` packing (`nmsim.faults.survey`, "
        "seeded). A flip is detected if the decoder refuses the stream. Otherwise it gives other legal masks. In a longer "
        "code it changes more groups.\n"
    )
    lines = ["| pattern | encoding | detected | groups changed by an undetected flip |", "|---|---|---|---|"]
    for text in FAULT_PATTERNS:
        for name in encodings.names():
            found = faults.survey(f"{text}/{name}").payload
            share = (
                f"{found.detected} of {found.faults}, {percent(found.detected / found.faults, 1, unit='%')}"
            )
            changed = f"{found.wrong_groups / found.silent:.1f}" if found.silent else "none"
            lines.append(_row([text, name, share, changed]))
    yield "\n".join(lines) + "\n"


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
