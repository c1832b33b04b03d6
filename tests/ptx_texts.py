"""PTX written by hand for tests: a body between a frame that loads what it needs."""

import numpy as np

from kernels.ptx.run import run_ptx

FRAME = """
.version 8.0
.target sm_{capability}
.address_size 64
.extern .shared .align 16 .b8 room[];
.visible .entry handmade({parameters})
.reqntid {threads}
{{
    .reg .pred %p<16>;
    .reg .b16 %h<32>;
    .reg .b32 %r<160>;
    .reg .b64 %d<48>;
    mov.u32 %r0, %tid.x;
{loads}
{body}
    ret;
}}
"""


def text_of(body, *, parameters=1, threads=32, capability=90):
    """A kernel: its thread's number is in %r0, its parameters, all addresses, in %d0 and on."""
    names = [f"    .param .u64 .ptr .global p{i}" for i in range(parameters)]
    loads = "\n".join(f"    ld.param.b64 %d{i}, [p{i}];" for i in range(parameters))
    return FRAME.format(
        parameters=",\n".join(names), threads=threads, loads=loads, body=body, capability=capability
    )


def line_of(text, statement):
    """The number of the line of a statement."""
    return next(number for number, line in enumerate(text.split("\n"), 1) if statement in line)


def run_body(body, *arrays, threads=32, grid=(1, 1, 1), shared_bytes=0, **more):
    """Run a body on arrays, changed in place: -> its counts."""
    text = text_of(body, parameters=len(arrays), threads=threads)
    return run_ptx(text, grid, args=arrays, shared_bytes=shared_bytes, **more)


def computed(statement, *sources, result=np.uint32):
    """Run one statement on a thread per number: `$0` is the result's register, `$1` and on the sources', `$p` a predicate."""
    letters = {1: "b16 %h", 2: "b16 %h", 4: "b32 %r", 8: "b64 %d"}
    many = max(len(source) for source in sources)
    threads = -(-many // 32) * 32
    body, arrays = [], []
    for number, source in enumerate([*sources, np.zeros(many, result)]):
        size = np.dtype(source.dtype).itemsize
        arrays.append(np.resize(source, threads))
        at, register = f"%d{20 + number}", f"{letters[size].split()[1]}{10 + number}"
        body.append(f"mad.wide.u32 {at}, %r0, {size}, %d{number};")
        if number < len(sources):
            body.append(f"ld.global.b{8 * size} {register}, [{at}];")
            statement = statement.replace(f"${number + 1}", register)
        else:
            statement = statement.replace("$0", register)
            body += [statement, f"st.global.b{8 * size} [{at}], {register};"]
    run_body("\n".join(body), *arrays, threads=threads)
    return arrays[-1][:many]
