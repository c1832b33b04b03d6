"""The encoding that a machine would choose for itself."""

from hwmodels.estimate.model import predict
from hwmodels.machine.spec import HardwareSpec
from nmsim import encodings
from nmsim.case import Case
from nmsim.errors import NmsimError
from nmsim.format import SparseFormat

CANDIDATES = ("index", "bitmask", "combinatorial")
"""Encodings whose codes are each of one group and of one width: those that machines and kernels decode."""


def best_encoding(case: Case, hardware: HardwareSpec) -> Case:
    """Choose the encoding with which a product is predicted to be fastest on a machine.

    Of encodings that are equally fast, the one with the fewest metadata bytes is chosen.

    Parameters
    ----------
    case : Case
        Its own encoding is not read. A dense case comes back as it is.
    hardware : HardwareSpec

    Returns
    -------
    Case

    Raises
    ------
    NmsimError
        The reason of the first encoding, if the machine takes none.

    Examples
    --------
    >>> from hwmodels.machine.spec import load_machine
    >>> from nmsim.case import GemmShape
    >>> best_encoding(Case(GemmShape(2048, 4096, 4096), "2:4"), load_machine("h200")).format.short
    '2:4/index'
    """
    if case.format is None:
        return case
    answers = []
    problems: list[NmsimError] = []
    for name in CANDIDATES:
        stored = SparseFormat(case.format.pattern, encodings.get(name), case.format.packing)
        candidate = Case(case.shape, stored, dtype=case.dtype, sparse_operand=case.sparse_operand)
        try:
            answers.append(predict(candidate, hardware))
        except NmsimError as error:
            problems.append(error)
    if not answers:
        raise problems[0]
    return min(answers, key=lambda each: (each.predicted_time_s, each.metadata_bytes)).case
