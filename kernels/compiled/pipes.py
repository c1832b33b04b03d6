"""How long a loop's instructions take to issue, pipe by pipe: not every instruction can begin in every cycle.

A multiprocessor has four partitions. Each starts one instruction of a warp in a cycle, at most. Most pipes are narrower than a
warp, so an instruction keeps its pipe for more than one cycle. Time is counted in cycles of a partition for one warp.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kernels.compiled.listing import operation
from kernels.stored.errors import KernelError
from nmsim.errors import brief

WARP_THREADS = 32
PARTITIONS = 4
GUIDE = (
    "CUDA C++ Programming Guide, Arithmetic Instructions, throughput of native arithmetic instructions "
    "(results per clock cycle per multiprocessor), column of the compute capability"
)
PIPELINES = "Nsight Compute, Profiling Guide, Pipelines: which pipe executes which instructions"
ARCHITECTURES = (80, 89, 90, 100)
"""A100; RTX 4090; H100 and H200; B200."""

KINDS: Mapping[str, str] = {
    "tensor": r"[HBIQ]MMA|HGMMA|QGMMA|IGMMA|BGMMA|UTC\w*MMA|DMMA",
    "shuffle": r"SHFL|MOVM|LDSM|STSM",
    "memory": r"LD[GSLC]?|LDTM|STTM|LDGSTS|ST[GSL]?|ATOM[GS]?|RED|REDG|LDGDEPBAR|CCTL|MEMBAR|ERRBAR|UBLKCP|SYNCS",
    "other": r"BRA|BRX|EXIT|RET|CALL|BSSY|BSYNC|BREAK|NOP|BAR|DEPBAR|WARPSYNC|YIELD|NANOSLEEP|WARPGROUP|ELECT|"
    r"ENDCOLLECTIVE|COLLECTIVE|ACQBULK|FENCE|PREEXIT|KILL|BPT|R2UR|S2UR|CS2R|WARPGROUPSET",
    "uniform": r"U(?!NDEF)\w+|LDCU|VOTEU",
    "special": r"CREDUX|MUFU|POPC|FLO|BREV|F2F|F2I|I2F|FRND|REDUX|S2R",
    "multiply": r"IMAD|IMUL|IDP|XMAD|IDP4A|IDP2A|FSWZADD",
    "float": r"FH?ADD2?|FH?MUL2?|FH?FMA2?|FFMA2?|FFMA32I|FADD32I|FMUL32I",
    "half": r"HADD2|HMUL2|HFMA2|HSETP2|HSET2|HMNMX2",
    "integer": r"LOP3?|LOP32I|SHF|SHL|SHR|PRMT|SEL|ISETP|VIMNMX3?|IMNMX|IADD3?|IADD32I|IADD|LEA|VIADD|VIADDMNMX|BMSK|SGXT|"
    r"P2R|R2P|FSEL|FSETP|FSET|PLOP3|IABS|VABSDIFF|VABSDIFF4|FMNMX3?|ICMP|MOV|MOV32I|F2FP|F2IP|I2FP|I2IP|FCHK|VOTE|"
    r"MATCH|LEPC|I2I",
}
"""What an instruction is, by its operation, first match. `HADD2` to float32 is how a 16-bit float is widened."""

LANES: Mapping[str, tuple[tuple[str, ...], Mapping[int, float], str]] = {
    "integer": (("integer",), dict.fromkeys(ARCHITECTURES, 64.0), f"{GUIDE}: integer add, shift, compare, logic"),
    "multiply": (("multiply",), dict.fromkeys(ARCHITECTURES, 64.0), f"{GUIDE}: integer multiply and multiply-add"),
    "float": (
        ("multiply", "float"),
        {80: 64.0, 89: 128.0, 90: 128.0, 100: 128.0},
        f"{GUIDE}: float32 add, multiply, multiply-add; {PIPELINES}: an integer multiplication takes the same pipe",
    ),
    "half": (
        ("half",),
        {80: 128.0, 89: 64.0, 90: 128.0, 100: 128.0},
        f"{GUIDE}: float16 add, multiply, multiply-add, two results per instruction",
    ),
    "special": (
        ("special",),
        dict.fromkeys(ARCHITECTURES, 16.0),
        f"{GUIDE}: population count, leading zeros, bit reverse, reciprocal, warp reduce; {PIPELINES}: XU",
    ),
    "memory": (
        ("memory", "shuffle"),
        dict.fromkeys(ARCHITECTURES, 32.0),
        f"{GUIDE}: warp shuffle; {PIPELINES}: LSU, which loads and stores share",
    ),
    "uniform": (
        ("uniform",),
        dict.fromkeys(ARCHITECTURES, 64.0),
        f"{PIPELINES}: uniform pipe; assumed to start an instruction every second cycle, as the integer pipe does",
    ),
}  # fmt: skip
"""Pipe -> kinds of instructions that it takes, lanes per cycle of a multiprocessor by architecture, source."""

TENSOR_FMAS = {80: 1024.0, 89: 512.0, 90: 2048.0, 100: 4096.0}
"""Dense products of 16 bits that the matrix units of a multiprocessor add in a cycle: NVIDIA's architecture white papers."""
WARP_MMA_SHARE = {80: 1.0, 89: 1.0, 90: 0.62, 100: 0.31}
"""Of that rate, what `mma.sync` reaches. On an H100 62 % (Luo et al., 2024, arXiv 2402.13499, measured); on a B200 the same
absolute rate, assumed."""


@dataclass(frozen=True)
class Issue:
    """What a piece of code asks of a partition, for one warp.

    Parameters
    ----------
    instructions : int
    cycles : dict of str to float
        Pipe -> cycles that it is busy; `issue` is the start of instructions, one in a cycle.
    """

    instructions: int
    cycles: dict[str, float]

    @property
    def bound(self) -> str:
        """The pipe that takes longest."""
        return max(self.cycles, key=self.cycles.__getitem__)

    @property
    def longest(self) -> float:
        """Cycles of that pipe: no warp of a partition that is full of such warps goes through in less."""
        return self.cycles[self.bound]


def kind(instruction: str) -> str:
    """Say what an instruction is, one of `KINDS`.

    Raises
    ------
    KernelError
        An operation that no kind names: it would count as no time.

    Examples
    --------
    >>> [kind(text) for text in ("LOP3.LUT R1, R2, R3, RZ, 0xc0, !PT", "@P0 IMAD.WIDE R2, R4, 0x20, R6", "POPC R1, R2")]
    ['integer', 'multiply', 'special']
    """
    name = operation(instruction).split(".")[0]
    found = next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, name)), None)
    if found is None:
        raise KernelError(
            f"instruction {brief(instruction)}: expected an operation of {', '.join(KINDS)}; name it in KINDS"
        )
    return found


def issue(body: Iterable[str], architecture: int) -> Issue:
    """Count the cycles of each pipe that one warp's way through some code takes.

    Parameters
    ----------
    body : iterable of str
        Instructions as nvdisasm prints them, predicates included. A predicated one counts as if it were executed.
    architecture : {80, 89, 90, 100}

    Returns
    -------
    Issue

    Raises
    ------
    KernelError
        Another architecture, or an unknown instruction.

    Source
    ------
    `LANES` names one for each rate.

    Examples
    --------
    >>> found = issue(["LOP3.LUT R1, R2, R3, RZ, 0xc0, !PT", "SHF.L.U32 R1, R1, 0x1, RZ", "FADD R4, R4, R1"], 90)
    >>> found.instructions, found.cycles["issue"], found.cycles["integer"], found.bound
    (3, 3.0, 4.0, 'integer')
    """
    if architecture not in ARCHITECTURES:
        raise KernelError(
            f"architecture {brief(architecture)}: expected one of {', '.join(map(str, ARCHITECTURES))}"
        )
    listed = list(body)
    counts = Counter(map(kind, listed))
    warps_per_lane = WARP_THREADS * PARTITIONS
    cycles = {"issue": float(len(listed))}
    for pipe, (kinds, lanes, _) in LANES.items():
        cycles[pipe] = sum(counts[name] for name in kinds) * warps_per_lane / lanes[architecture]
    rate = TENSOR_FMAS[architecture] * WARP_MMA_SHARE[architecture] / PARTITIONS
    cycles["tensor"] = sum(map(_warp_products, listed)) / rate
    return Issue(len(listed), cycles)


def _warp_products(instruction: str) -> float:
    """Products that a warp's `mma` adds; 0 of all else, and of those that the matrix units read from shared memory."""
    found = re.match(r"[HBIQ]MMA\.(\d+)\b", operation(instruction))
    if found is None:
        return 0.0
    # 16816 is 16 x 8 x 16; 1688 is 16 x 8 x 8; 16832 is 16 x 8 x 32.
    return 16.0 * 8.0 * float(found[1][3:])
