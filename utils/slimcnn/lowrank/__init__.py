"""Low-rank factorization: one layer as two or three that are smaller together.

    matrices    the best matrix of a rank, for the weights or for the data; kernels as matrices
    tensors     Tucker-2 (HOSVD, HOOI) and CP (ALS)
    methods     what each method makes of a layer, and the ranks that it takes
    layers      a layer, factorized: channel, input, spatial, Tucker-2, CP
    ranks       parameters, break-even, ranks by energy
    evbmf       ranks by variational Bayes
    network     layers of a network factorized wherever they are used; moments of their outputs
    costs       MACs, parameters and bytes of a factorized network, by formula
    plan        a rank for each layer under a budget, by energy or by a measure
    files       a factorized network as one file

Chapter 5 (Low-rank factorization) derives all of it.
"""

from slimcnn.lowrank.costs import Cost, Survey
from slimcnn.lowrank.evbmf import evbmf_rank
from slimcnn.lowrank.files import load_factorized, save_factorized
from slimcnn.lowrank.layers import (
    Factorized,
    channel_conv,
    cp_conv,
    factorize_layer,
    input_conv,
    spatial_conv,
    svd_linear,
    tucker2_conv,
)
from slimcnn.lowrank.matrices import output_svd, truncated_svd, unfold, whitened_svd
from slimcnn.lowrank.methods import METHODS, Choice, Rank, largest_rank
from slimcnn.lowrank.network import Plan, candidates, factorize, output_moments, plan_of
from slimcnn.lowrank.plan import (
    choose_ranks,
    energy_damages,
    layer_sensitivity,
    measured_damages,
)
from slimcnn.lowrank.ranks import (
    break_even_rank,
    energy_rank,
    factorized_parameters,
    rank_at,
    rank_by,
    relative_errors,
    tucker_ranks,
)
from slimcnn.lowrank.tensors import CP, Tucker2, cp, tucker2

__all__ = [
    "CP",
    "METHODS",
    "Choice",
    "Cost",
    "Factorized",
    "Plan",
    "Rank",
    "Survey",
    "Tucker2",
    "break_even_rank",
    "candidates",
    "channel_conv",
    "choose_ranks",
    "cp",
    "cp_conv",
    "energy_damages",
    "energy_rank",
    "evbmf_rank",
    "factorize",
    "factorize_layer",
    "factorized_parameters",
    "input_conv",
    "largest_rank",
    "layer_sensitivity",
    "load_factorized",
    "measured_damages",
    "output_moments",
    "output_svd",
    "plan_of",
    "rank_at",
    "rank_by",
    "relative_errors",
    "save_factorized",
    "spatial_conv",
    "svd_linear",
    "truncated_svd",
    "tucker2",
    "tucker2_conv",
    "tucker_ranks",
    "unfold",
    "whitened_svd",
]
