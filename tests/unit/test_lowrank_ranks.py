"""slimcnn.lowrank.ranks and evbmf: counts by pencil, spectra by NumPy, Bayes by its free energy."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

from slimcnn import lowrank, metrics
from slimcnn.lowrank import evbmf
from slimcnn.lowrank.ranks import all_ranks

CONV = nn.Conv2d(6, 8, (3, 5))
NO_BIAS = nn.Conv2d(4, 12, 3, bias=False)
LINEAR = nn.Linear(20, 10)
MATRIX_METHODS = ("channel", "input", "spatial")


def pairs(*layers, methods=lowrank.METHODS):
    """Each layer with each method that can factorize it."""
    return [
        (layer, method)
        for layer in layers
        for method in methods
        if (method == "svd") == isinstance(layer, nn.Linear)
    ]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noisy(rows, columns, rank, noise, seed=0):
    signal = normal(rows, rank, seed=seed) @ normal(rank, columns, seed=seed + 1)
    return signal + noise * normal(rows, columns, seed=seed + 2)


# ---------------------------------------------------------------- counts


def test_parameters_by_pencil():
    count = lowrank.factorized_parameters
    assert count(LINEAR, "svd", 3) == 3 * (20 + 10) + 10
    for r in (1, 3, 6):
        assert count(CONV, "channel", r) == r * (6 * 15 + 8) + 8
        assert count(CONV, "input", r) == r * (6 + 8 * 15) + 8
        assert count(CONV, "spatial", r) == r * (6 * 3 + 8 * 5) + 8
        assert count(CONV, "tucker2", (r + 1, r)) == 6 * r + r * (r + 1) * 15 + (r + 1) * 8 + 8
        assert count(CONV, "cp", r) == r * (6 + 15 + 8) + 8
    assert count(NO_BIAS, "channel", 2) == 2 * (4 * 9 + 12)


@pytest.mark.parametrize(("layer", "method"), pairs(CONV, NO_BIAS, LINEAR))
def test_parameters_are_those_of_the_layers_that_are_made(layer, method):
    options = {"iterations": 1} if method == "cp" else {}
    for rank in all_ranks(layer, method)[::3]:
        made = lowrank.factorize_layer(layer, method, rank, **options)
        expected = metrics.count_parameters(made)
        assert lowrank.factorized_parameters(layer, method, rank) == expected


def test_ranks_to_choose_from():
    assert all_ranks(LINEAR, "svd") == list(range(1, 11))
    assert all_ranks(CONV, "spatial") == list(range(1, 19))
    assert all_ranks(NO_BIAS, "tucker2") == [
        (1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (8, 3), (9, 3), (10, 3), (11, 4),
        (12, 4),
    ]  # fmt: skip
    for layer in (CONV, nn.Conv2d(7, 7, 3), nn.Conv2d(1, 5, 3)):
        pairs = all_ranks(layer, "tucker2")
        assert len(set(pairs)) == len(pairs) == max(layer.in_channels, layer.out_channels)
        assert pairs[-1] == (layer.out_channels, layer.in_channels)


def test_one_fraction_gives_both_tucker_ranks():
    layer = nn.Conv2d(64, 128, 3)
    for fraction, pair in ((1.0, (128, 64)), (0.5, (64, 32)), (0.1, (13, 6)), (1e-9, (1, 1))):
        assert lowrank.tucker_ranks(layer, fraction) == pair
    for fraction in (0, -0.1, 1.01, math.nan):
        with pytest.raises(ValueError, match=f"fraction is {fraction}; it must be above 0 and at"):
            lowrank.tucker_ranks(layer, fraction)
    with pytest.raises(ValueError, match="a linear layer is factorized by 'svd'"):
        lowrank.tucker_ranks(LINEAR, 0.5)


@pytest.mark.parametrize(
    ("layer", "method", "expected"),
    [
        (LINEAR, "svd", 6),  # 30 r < 200
        (nn.Linear(20, 20), "svd", 9),  # 40 r < 400: at 10 nothing is saved
        (CONV, "channel", 7),  # 98 r < 720
        (CONV, "input", 5),  # 126 r < 720
        (CONV, "spatial", 12),  # 58 r < 720
        (CONV, "cp", 24),  # 29 r < 720
        (NO_BIAS, "tucker2", (10, 3)),  # 12 + 270 + 120 = 402 < 432; (11, 4): 544
        (nn.Conv2d(9, 1, 1), "channel", None),  # 10 r < 9
        (nn.Conv2d(1, 1, 1), "cp", None),
    ],
)
def test_break_even(layer, method, expected):
    assert lowrank.break_even_rank(layer, method) == expected


@pytest.mark.parametrize("method", lowrank.METHODS)
@pytest.mark.parametrize("fraction", [1e-6, 0.1, 0.3, 0.5, 0.99, 1.0, 3.0])
def test_a_fraction_of_the_parameters_is_used_up_and_never_passed(method, fraction):
    layer = LINEAR if method == "svd" else CONV
    ranks = all_ranks(layer, method)
    rank = lowrank.rank_at(layer, method, fraction)
    allowed = fraction * metrics.count_parameters(layer)
    counts = {r: lowrank.factorized_parameters(layer, method, r) for r in ranks}
    assert counts[rank] <= allowed or rank == ranks[0]
    assert all(count > allowed for r, count in counts.items() if ranks.index(r) > ranks.index(rank))
    with pytest.raises(ValueError, match=r"fraction is 0; it must be above 0"):
        lowrank.rank_at(layer, method, 0)


# ---------------------------------------------------------------- energy


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.floats(0.01, 1), st.integers(0, 99))
def test_the_energy_rank_is_the_smallest_that_keeps_so_much(rows, columns, energy, seed):
    matrix = normal(rows, columns, seed=seed)
    spectrum = np.linalg.svd(matrix.numpy(), compute_uv=False) ** 2
    rank = lowrank.energy_rank(matrix, energy)
    assert 1 <= rank <= min(rows, columns)
    assert spectrum[:rank].sum() >= (energy - 1e-9) * spectrum.sum()
    assert rank == 1 or spectrum[: rank - 1].sum() < (energy + 1e-9) * spectrum.sum()


def test_energy_ranks_by_pencil():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0])) @ torch.eye(4, 6)  # 9, 4, 1 of 14
    for energy, rank in ((0.1, 1), (0.64, 1), (0.65, 2), (0.92, 2), (0.93, 3), (1.0, 3)):
        assert lowrank.energy_rank(matrix, energy) == rank
        assert lowrank.energy_rank(matrix.T, energy) == rank
    assert lowrank.energy_rank(noisy(9, 12, 4, 0.0), 1.0) == 4
    assert lowrank.energy_rank(torch.zeros(3, 3), 0.9) == 1
    for energy in (0, -1, 1.1, math.nan):
        with pytest.raises(ValueError, match=f"energy is {energy}; it must be above 0"):
            lowrank.energy_rank(matrix, energy)


def rebuilt_error(layer, method, rank, **options):
    made = lowrank.factorize_layer(layer, method, rank, **options)
    lost = (layer.weight - made.composed()).detach().square().sum()
    return float(lost / layer.weight.detach().square().sum())


@pytest.mark.parametrize(
    ("layer", "method"),
    pairs(
        *(CONV, NO_BIAS, LINEAR, nn.Conv2d(1, 12, 3), nn.Conv2d(5, 3, 1)),
        methods=[m for m in lowrank.METHODS if m != "cp"],
    ),
)
def test_errors_are_those_of_the_layers_that_are_made(layer, method):
    layer = copy.deepcopy(layer).double()
    options = {"iterations": 0} if method == "tucker2" else {}
    errors = lowrank.relative_errors(layer, method)
    assert list(errors) == all_ranks(layer, method)
    for rank, error in errors.items():
        assert error == pytest.approx(rebuilt_error(layer, method, rank, **options), abs=1e-12)
    assert list(errors.values()) == sorted(errors.values(), reverse=True)
    assert list(errors.values())[-1] == pytest.approx(0, abs=1e-12)


def test_with_a_moment_errors_are_of_the_outputs():
    layer = nn.Conv2d(3, 5, 3).double()
    x = normal(20, 3, 7, 7)
    y = (layer(x) - layer.bias.view(-1, 1, 1)).movedim(1, -1).reshape(-1, 5).detach()
    moment = y.T @ y / len(y)
    errors = lowrank.relative_errors(layer, "channel", moment)
    assert list(errors) == [1, 2, 3, 4, 5]
    for rank, error in errors.items():
        made = lowrank.channel_conv(layer, rank, moment=moment)
        lost = (made(x) - layer(x)).detach().square().mean() / y.square().mean()
        assert error == pytest.approx(float(lost), abs=1e-8)
    for method, wrong in (("input", moment), ("channel", moment[:4, :4])):
        with pytest.raises(ValueError, match=rf"given for '{method}'; .* one of shape \(5, 5\)"):
            lowrank.relative_errors(layer, method, wrong)


def test_a_rule_for_matrices_is_asked_for_each_unfolding():
    kernel = CONV.weight.detach()
    seen = []

    def rule(matrix):
        seen.append(matrix.detach())
        return len(seen) - 1

    assert lowrank.rank_by(CONV, "tucker2", rule) == (1, 1)  # 0 is taken as 1
    assert torch.equal(seen[0], kernel.flatten(1))
    assert torch.equal(seen[1], kernel.transpose(0, 1).flatten(1))
    for method in MATRIX_METHODS:
        assert lowrank.rank_by(CONV, method, rule) == len(seen) - 1
        assert torch.equal(seen[-1], lowrank.unfold(kernel, method))
    assert lowrank.rank_by(LINEAR, "svd", lambda matrix: matrix.shape[1]) == 20
    by_energy = lowrank.rank_by(CONV, "channel", lambda m: lowrank.energy_rank(m, 0.5))
    assert lowrank.relative_errors(CONV, "channel")[by_energy] <= 0.5


def test_cp_has_no_spectrum_and_the_advice_is_to_measure():
    for call in (
        lambda: lowrank.rank_by(CONV, "cp", evbmf.evbmf_rank),
        lambda: lowrank.relative_errors(CONV, "cp"),
    ):
        with pytest.raises(ValueError, match=r"'cp' has no spectrum.* validation images"):
            call()


# ---------------------------------------------------------------- variational Bayes


def least_free_energy(gamma, rows, columns):
    """The variational free energy of one component, noise 1, over its posterior and its prior.

    B and A have `rows` and `columns` entries, posterior means of norms b and a and variances
    s_b, s_a; each prior has the variance that suits its factor best. Without the component: 0.
    """

    def energy(p):
        a, b, s_a, s_b = np.exp(p)
        square_a, square_b = a**2 + columns * s_a, b**2 + rows * s_b
        return (
            columns * np.log(square_a / columns / s_a)
            + rows * np.log(square_b / rows / s_b)
            - 2 * a * b * gamma
            + square_a * square_b
        )

    starts = itertools.product((0.3, 1.0), (-2, 0))
    return min(
        minimize(energy, [np.log(s * gamma) / 2] * 2 + [v] * 2, method="BFGS").fun
        for s, v in starts
    )


@pytest.mark.parametrize(("rows", "columns"), [(5, 20), (10, 10), (3, 90), (8, 9)])
def test_threshold_and_gain_are_those_of_the_free_energy_of_the_model(rows, columns):
    alpha = rows / columns
    threshold = evbmf._threshold(alpha)
    for factor in (0.97, 1.03, 1.5, 4.0):
        x = factor * threshold
        least = least_free_energy(math.sqrt(x * columns), rows, columns) / columns
        energy = torch.tensor([x], dtype=torch.float64)
        noise = torch.ones(1, dtype=torch.float64)
        found = float(evbmf.free_energy(energy, noise, alpha, threshold)[0]) - x
        assert found == pytest.approx(min(0, least), abs=1e-6)
        assert (found < 0) == (factor > 1)


@pytest.mark.parametrize(
    ("rows", "columns", "rank", "noise"),
    [
        (40, 100, 5, 0.1), (100, 40, 5, 0.1), (64, 576, 10, 1.0), (100, 100, 20, 0.2),
        (30, 31, 1, 0.5), (40, 60, 0, 1.0), (60, 60, 0, 1e-9), (20, 30, 5, 0.0), (50, 40, 12, 1e-7),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", [0, 100, 200])
def test_the_rank_under_noise_is_found(rows, columns, rank, noise, seed):
    matrix = noisy(rows, columns, rank, noise, seed)
    assert lowrank.evbmf_rank(matrix) == rank
    assert lowrank.evbmf_rank(1e-6 * matrix) == rank
    assert lowrank.evbmf_rank(1e6 * matrix.T) == rank
    empty = torch.zeros(rows, 3, dtype=torch.float64)
    assert lowrank.evbmf_rank(torch.cat([empty, matrix, empty], 1)) == rank


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rounding_is_no_signal(dtype):
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        left = torch.randn(30, 3, generator=generator, dtype=torch.float64)
        right = torch.randn(3, 90, generator=generator, dtype=torch.float64)
        assert lowrank.evbmf_rank((left @ right).to(dtype)) == 3


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0])
def test_the_noise_that_is_found_is_the_noise_and_the_best_of_a_fine_grid(noise):
    matrix = noisy(60, 200, 6, noise)
    energies = torch.linalg.svdvals(matrix).square() / 200
    scale = energies.mean()
    alpha, threshold = 0.3, evbmf._threshold(0.3)
    found = evbmf._noise_variance(energies / scale, alpha, threshold, 46, 1e-24)
    assert float(found * scale) == pytest.approx(noise**2, rel=0.1)
    grid = torch.linspace(-12, 3, 20001, dtype=torch.float64).exp()
    values = evbmf.free_energy(energies / scale, grid, alpha, threshold)
    best = grid[values.argmin()]
    assert float(found) == pytest.approx(float(best), rel=2e-3)
    at_found = evbmf.free_energy(energies / scale, found[None], alpha, threshold)
    assert float(at_found) <= float(values.min())


def test_more_than_the_largest_share_of_components_cannot_stand_out():
    """⌈L / (1 + α)⌉ − 1: a square matrix of full rank shows half of its components at most."""
    matrix = torch.diag(10.0 ** -torch.arange(0, 20, dtype=torch.float64))
    assert lowrank.evbmf_rank(matrix) <= 9
    strong = torch.diag(torch.tensor([1e6, 1e3, 1.0])).double() @ torch.eye(3, 12).double()
    strong = strong + 1e-3 * normal(3, 12)
    assert lowrank.evbmf_rank(strong) == 2  # ⌈3 / 1.25⌉ − 1, though all three stand out
    assert lowrank.evbmf_rank(torch.eye(20)) == 0
    assert lowrank.evbmf_rank(normal(1, 9)) == 0
    assert lowrank.evbmf_rank(torch.ones(1, 1)) == 0
    assert lowrank.evbmf_rank(torch.zeros(4, 5)) == 0


def test_evbmf_of_a_layer_finds_what_was_hidden_in_its_kernel():
    core, noise = normal(6, 4, 3, 3), 0.1 * normal(40, 30, 3, 3)
    layer = nn.Conv2d(30, 40, 3)
    signal = torch.einsum("abyx,oa,ib->oiyx", core, normal(40, 6), normal(30, 4))
    layer.weight.data = (signal + noise).float()
    assert lowrank.rank_by(layer, "tucker2", lowrank.evbmf_rank) == (6, 4)
    with pytest.raises(ValueError, match="NaN or infinity"):
        lowrank.evbmf_rank(torch.full((3, 3), math.nan))
