"""slimcnn.coding.kmeans: Lloyd's iterations, against plain ones and against the optimum."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from slimcnn.coding import kmeans


def plain_lloyd(weights, values, iterations):
    """Distances to every value, means of every group; as slow and simple as can be."""
    for _ in range(iterations):
        nearest = np.abs(weights[:, None] - values[None]).argmin(1)
        new = np.array(
            [
                weights[nearest == i].mean() if (nearest == i).any() else v
                for i, v in enumerate(values)
            ]
        )
        if np.array_equal(new, values):
            break
        values = new
    nearest = np.abs(weights[:, None] - values[None]).argmin(1)
    return values, nearest, ((weights - values[nearest]) ** 2).sum()


def optimum(weights, k):
    """The least sum of squares of k groups of neighbors, by dynamic programming."""
    x = np.sort(weights)
    n = len(x)

    def spread(i, j):
        return ((x[i:j] - x[i:j].mean()) ** 2).sum()

    best = [spread(0, j) if j else 0.0 for j in range(n + 1)]
    for _ in range(k - 1):
        best = [0.0] + [
            min(best[i] + (spread(i, j) if j > i else 0.0) for i in range(j))
            for j in range(1, n + 1)
        ]
    return best[n]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_groups_by_hand():
    book = kmeans(torch.tensor([[0.0, 10.0], [1.0, 12.0]]), 2)
    assert book.values.tolist() == [0.5, 11.0]
    assert book.indices.tolist() == [[0, 1], [0, 1]]
    assert book.decode().tolist() == [[0.5, 11.0], [0.5, 11.0]]
    # before: values 0 and 12, distances 0, 2, 1, 0; after: 0.5, 1, 0.5, 1
    assert book.errors == (5.0, 2.5)


@pytest.mark.parametrize("k", [2, 8, 16])
@pytest.mark.parametrize("start", ["linear", "density", "random"])
def test_equals_scikit_learn_from_the_same_start(k, start):
    weights = normal(2000, seed=k)
    first = kmeans(weights, k, start=start, iterations=0).values
    ours = kmeans(weights, k, start=start, iterations=1000)
    theirs = KMeans(
        k, init=first[:, None].numpy(), n_init=1, max_iter=1000, tol=0, algorithm="lloyd"
    ).fit(weights[:, None].numpy())
    np.testing.assert_allclose(ours.values, np.sort(theirs.cluster_centers_[:, 0]), atol=1e-9)
    assert ours.errors[-1] == pytest.approx(theirs.inertia_, rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 5, 16])
@pytest.mark.parametrize("iterations", [0, 1, 3, 100])
def test_equals_plain_iterations(k, iterations):
    weights = normal(400)
    book = kmeans(weights, k, iterations=iterations)
    first = np.linspace(float(weights.min()), float(weights.max()), k)
    values, nearest, error = plain_lloyd(weights.numpy(), first, iterations)
    np.testing.assert_allclose(book.values, values, atol=1e-12)
    np.testing.assert_array_equal(book.indices, nearest)
    assert book.errors[-1] == pytest.approx(error, rel=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=25),
    st.integers(1, 5),
    st.sampled_from(["linear", "density", "random"]),
)
def test_laws(numbers, k, start):
    weight = torch.tensor(numbers, dtype=torch.float64)
    book = kmeans(weight, k, start=start)
    assert len(book.values) <= k and (book.values.diff() >= 0).all()
    decoded = book.decode()
    # nobody would rather have another value
    distances = (weight[:, None] - book.values[None]).abs()
    torch.testing.assert_close((weight - decoded).abs(), distances.amin(1), atol=1e-9, rtol=0)
    assert book.errors[-1] == pytest.approx(float((weight - decoded).square().sum()), abs=1e-6)
    assert all(b <= a + 1e-6 for a, b in zip(book.errors, book.errors[1:], strict=False))
    assert book.errors[-1] >= optimum(weight.numpy(), k) - 1e-6


def test_separate_groups_are_found():
    centers = torch.tensor([-3.0, 0.0, 0.5, 9.0])
    weight = (centers[:, None] + 0.01 * normal(4, 50).float()).flatten()
    book = kmeans(weight, 4, start="density")
    torch.testing.assert_close(book.values, centers, atol=0.02, rtol=0)
    assert book.errors[-1] == pytest.approx(optimum(weight.double().numpy()[::5], 4) * 5, rel=0.5)


def test_starts():
    weight = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 10.0])
    assert kmeans(weight, 3, iterations=0).values.tolist() == [0.0, 5.0, 10.0]
    assert kmeans(weight, 3, start="density", iterations=0).values.tolist() == [1.0, 2.0, 3.0]
    # two of the four parts have the same weight: another one takes the empty place
    assert kmeans(weight, 4, start="density", iterations=0).values.tolist() == [0.0, 1.0, 2.0, 10.0]
    often = torch.cat([torch.zeros(1000), torch.arange(1.0, 21.0)])
    book = kmeans(often, 8, start="density")
    assert len(book.values) == 8 and book.errors[-1] < 20
    generator = torch.Generator().manual_seed(3)
    found = kmeans(weight, 3, start="random", iterations=0, generator=generator).values
    assert len(found.unique()) == 3 and set(found.tolist()) <= set(weight.tolist())
    again = kmeans(weight, 3, start="random", iterations=0)
    torch.testing.assert_close(again.values, kmeans(weight, 3, start="random", iterations=0).values)


def test_as_many_values_as_weights_lose_nothing():
    weight = normal(3, 4).float()
    for start in ("linear", "density", "random"):
        book = kmeans(weight, 12, start=start)
        assert torch.equal(book.decode(), weight) and book.values.dtype == torch.float32
    assert torch.equal(kmeans(torch.full((5,), 2.0), 3).decode(), torch.full((5,), 2.0))


def test_a_value_without_weights_stays():
    book = kmeans(torch.tensor([0.0, 0.1, 10.0, 10.1]), 3)
    assert 5.05 in [round(v, 2) for v in book.values.tolist()]


def test_the_given_weight_is_not_changed():
    weight = normal(10)
    before = weight.clone()
    kmeans(weight, 3)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_k_is_a_whole_number(k):
    with pytest.raises(ValueError, match=r"k is .*1 or more"):
        kmeans(torch.ones(3), k)


def test_what_kmeans_refuses():
    with pytest.raises(ValueError, match="start is 'best'; allowed are linear"):
        kmeans(torch.arange(9.0), 2, start="best")
    with pytest.raises(ValueError, match="iterations is -1"):
        kmeans(torch.arange(9.0), 2, iterations=-1)
    for weight in (torch.zeros(0), torch.tensor([1.0, float("nan")])):
        with pytest.raises(ValueError, match="no numbers, or some that are not finite"):
            kmeans(weight, 2)
