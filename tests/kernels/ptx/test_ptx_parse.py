"""The parser: what it makes of texts, and how it names what it does not read."""

import pytest
from ptx_texts import line_of, text_of

from kernels.ptx.errors import PtxSyntaxError, UnknownInstruction
from kernels.ptx.machine import Code
from kernels.ptx.parse import read_ptx
from kernels.ptx.program import Address, Immediate, Negated, Pair, Register, Symbol, Target, Vector


def only(body, **more):
    """The instructions of a body."""
    program = read_ptx(text_of(body, **more))
    return [i for i in program.instructions if i.line >= line_of(text_of(body, **more), body.split("\n")[0])][
        :-1
    ]


def test_the_head_of_a_kernel():
    program = read_ptx(text_of("", parameters=2, threads=128, capability=80))
    assert (program.name, program.capability, program.threads) == ("handmade", 80, 128)
    assert [(p.name, p.n_bytes, p.is_pointer) for p in program.parameters] == [
        ("p0", 8, True),
        ("p1", 8, True),
    ]
    assert program.shared == {"room": 0}
    assert sum(register.n_bytes == 0 for register in program.registers) == 16


def test_operands_of_all_kinds():
    vector, address, numbers, guarded, pair, symbol = only(
        "ld.global.v2.b32 {%r1, _}, [%d0 + -8];\n"
        "mad.wide.s32 %d1, %r1, -3, 0x10;\n"
        "add.f32 %r1, 0f3F800000, 1.5;\n"
        "@!%p1 setp.lt.and.s32 %p2|%p3, %r1, 4, !%p4;\n"
        "shfl.sync.bfly.b32 %r2|%p5, %r1, 1, 31, -1;\n"
        "mov.b32 %r3, room;"
    )
    assert vector.opcode == "ld"
    assert vector.modifiers == ("global", "v2", "b32")
    assert isinstance(vector.operands[0], Vector)
    assert vector.operands[0].items[0].name == "%r1"
    assert vector.operands[0].items[1] is None
    assert isinstance(vector.operands[1], Address)
    assert vector.operands[1].offset == -8
    assert address.operands[2:] == (Immediate(-3), Immediate(16))
    assert numbers.operands[1] == Immediate(0x3F800000, 4)
    assert numbers.operands[2] == Immediate(0x3FF8000000000000, 8)
    assert guarded.negated
    assert guarded.predicate.name == "%p1"
    assert isinstance(guarded.operands[3], Negated)
    assert isinstance(pair.operands[0], Pair)
    assert symbol.operands[1] == Symbol("room")


def test_names_of_a_scope_end_with_it():
    program = read_ptx(text_of("{ .reg .b32 %r1; mov.b32 %r1, 1; }\nmov.b32 %r1, 2;"))
    inner, outer = (i.operands[0] for i in program.instructions if i.opcode == "mov" and len(i.text) < 16)
    assert isinstance(inner, Register)
    assert inner.name == outer.name
    assert inner.index != outer.index


def test_labels_belong_to_their_braces():
    """As inline assembly repeats them: each branch leads to the label of its own braces, or of those around."""
    once = "{ bra DONE; { bra DONE; bra OUT; } DONE: }"
    program = read_ptx(text_of(f"{once} mov.b32 %r1, 1; {once} OUT: mov.b32 %r1, 2;"))
    goals = [
        program.labels[target.label]
        for instruction in program.instructions
        for target in instruction.operands
        if isinstance(target, Target)
    ]
    moves = [
        number for number, i in enumerate(program.instructions) if i.opcode == "mov" and len(i.text) < 16
    ]
    first, last = moves[-2:]
    assert goals == [first, first, last, last, last, last]


def test_lines_and_sources_are_those_of_the_text():
    text = text_of(
        ".loc 1 9 5 // kernel.py:9:5\nadd.s32 %r1,\n    %r2, 1; // remark; with a semicolon\n$L: bra $L;"
    )
    add = next(i for i in read_ptx(text).instructions if i.opcode == "add")
    assert add.line == line_of(text, "add.s32")
    assert add.source == "kernel.py:9:5"
    assert add.text == "add.s32 %r1, %r2, 1"
    assert read_ptx(text).labels["$L"] == read_ptx(text).instructions.index(add) + 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("add.s32 %r1, %r2, %unknown;", "operand '%unknown' is no register"),
        ("@%q add.s32 %r1, %r2, 1;", "predicate %q is not declared"),
        ("bra $nowhere;", "label $nowhere is nowhere"),
        (".reg .b7 %x;", "registers of an unknown type"),
        (".alias a, b;", "directive that is not read"),
        ("ld.global.b32 %r1, [%d0 * 4];", "has an unknown form"),
    ],
)
def test_what_is_not_read_is_named_with_its_line(body, message):
    text = text_of(body)
    with pytest.raises(PtxSyntaxError) as error:
        read_ptx(text)
    assert message in str(error.value)
    assert f"line {line_of(text, body)}" in str(error.value)


def test_a_text_without_a_kernel_or_its_end_is_refused():
    with pytest.raises(PtxSyntaxError, match="without a kernel"):
        read_ptx(".version 8.0")
    with pytest.raises(PtxSyntaxError, match="without its closing brace"):
        read_ptx(text_of("").rstrip().rstrip("}"))


@pytest.mark.parametrize(
    "statement",
    [
        "tcgen05.alloc.b32 [%r1], 32;",
        "add.cc.u32 %r1, %r2, %r3;",
        "cp.async.bulk.commit_group;",
        "fma.rz.f32 %r1, %r2, %r3, %r4;",
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d1, %d2}, {%d3}, {%d4}, {%d1, %d2};",
        "ld.local.b32 %r1, [%d0];",
        "bar.sync 0, 16;",
        "shfl.sync.bfly.b32 %r2, %r1, 1, 31, 0xffff;",
        "cvt.rn.bogus.f32 %r1, %r2;",
    ],
)
def test_an_unknown_instruction_is_named_with_its_line(statement):
    text = text_of(statement)
    with pytest.raises(UnknownInstruction) as error:
        Code(read_ptx(text))
    assert f"line {line_of(text, statement)}" in str(error.value)
    assert statement.split()[0].rstrip(";") in str(error.value)
    assert error.value.place.line == line_of(text, statement)
