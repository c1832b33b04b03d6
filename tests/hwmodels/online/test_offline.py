"""Products of weights that were pruned beforehand, with what stands beside them."""

import numpy as np
import pytest

import hwmodels
from hwmodels.online.mitigations import Settings
from hwmodels.online.overheads import stage_costs
from hwmodels.online.pruning import OfflinePruning, offline_pruning
from hwmodels.tensorcore.cycles import Cycles, closed_form
from hwmodels.tensorcore.point import point
from nmsim.case import Case, GemmShape
from nmsim.errors import RowError

CORE = hwmodels.load_core("flexible-8x16")


def case(tokens=1, format="8:16/combinatorial", **changes):
    return Case(GemmShape(tokens, 4096, 4096), format, **changes)


@pytest.mark.parametrize("tokens", [1, 4096])
def test_alone_it_is_the_closed_form(tokens):
    answer = hwmodels.predict_core(case(tokens), CORE)
    dense = hwmodels.predict_core(case(tokens, format=None), CORE)
    found = offline_pruning(case(tokens), CORE)
    assert found == OfflinePruning(dense.cycles, answer.cycles, 0, 0, 0)
    assert offline_pruning(case(tokens, format=None), CORE).net_cycles == dense.cycles


@pytest.mark.parametrize("tokens", [1, 4096])
def test_outliers_by_hand(tokens):
    """4:256 of 4096 x 4096: 65536 windows of 4 values and 28 bits, multiplied on 128 lanes of each core."""
    found = offline_pruning(case(tokens), CORE, mitigation="outliers")
    stored_bytes = 65536 * 4 * 2 + 65536 * 28 // 8
    assert found.parameter_cycles == int(np.ceil(stored_bytes / CORE.dram_bytes_per_cycle))
    product = Cycles(*closed_form(np.array([point(CORE, case(tokens))]))[0])
    lanes = int(np.ceil(tokens * 65536 * 4 / (128 * CORE.cores)))
    assert found.exposed_epilogue_cycles == max(np.ceil(lanes / product.waves), lanes - product.cycles)
    assert found.net_cycles == sum(found[1:])


def test_salient_columns_are_a_product_of_their_own():
    found = offline_pruning(case(512), CORE, mitigation="salient_columns", settings=Settings(columns=64))
    beside = hwmodels.predict_core(Case(GemmShape(512, 4096, 64)), CORE)
    assert found.side_cycles == beside.cycles


def test_what_is_folded_costs_nothing():
    assert offline_pruning(case(), CORE, mitigation="weight_correction") == offline_pruning(case(), CORE)


def test_costs_are_those_of_the_table():
    costs = stage_costs(case().shape, "8:16", criterion=None, mitigation="scale_shift", operand="weights")
    found = offline_pruning(case(), CORE, mitigation="scale_shift")
    read = sum(cost.dram_read_bytes for cost in costs)
    assert found.parameter_cycles == int(np.ceil(read / CORE.dram_bytes_per_cycle)) > 0


def test_activations_are_refused():
    with pytest.raises(RowError, match="8:16 of activations: expected one of weights"):
        offline_pruning(case(sparse_operand="activations"), CORE)
    with pytest.raises(RowError, match="of activations; with sparse weights"):
        offline_pruning(case(), CORE, mitigation="var")
