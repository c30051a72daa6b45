"""Matrices of low rank, and the matrices that a convolution's kernel can be read as.

Everything is computed in float64 on the CPU and given back in the type, and on the device, of
the input. Chapter 5 (Low-rank: matrices).
"""

import torch
from torch import Tensor

# The kernel (O, I, kh, kw) as a matrix: which of its axes become rows, which columns.
_UNFOLDINGS = {
    "channel": ((0,), (1, 2, 3)),
    "input": ((0, 2, 3), (1,)),
    "spatial": ((1, 2), (0, 3)),
}
_RIDGE = 1e-10  # how much the weights count in `output_svd` beside the data
TINY = torch.finfo(torch.float64).tiny  # a divisor in place of zero


def unfold(kernel: Tensor, scheme: str) -> Tensor:
    """The kernel of a convolution as a matrix; its low rank makes two layers of one.

    - "channel": O × (I·kh·kw), the filters as rows;
    - "input": (O·kh·kw) × I, what each input channel gives to every output;
    - "spatial": (I·kh) × (O·kw), the vertical against the horizontal half.

    Args:
        kernel: shape (O, I, kh, kw).
        scheme: one of these.

    Raises:
        ValueError: the kernel has other than four axes, or there is no such scheme.

    Chapter 5, Low-rank: matrices.
    """
    if kernel.ndim != 4:
        raise ValueError(f"the kernel has shape {tuple(kernel.shape)}, not (O, I, kh, kw)")
    if scheme not in _UNFOLDINGS:
        raise ValueError(f"scheme is {scheme!r}; there are {', '.join(_UNFOLDINGS)}")
    rows, columns = _UNFOLDINGS[scheme]
    height = torch.Size(kernel.shape[axis] for axis in rows).numel()
    return kernel.permute(*rows, *columns).reshape(height, -1)


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors of a rank: left · right is nearest to the matrix of all of that rank.

    With W = U diag(σ) Vᵀ: left = U_r diag(√σ), right = diag(√σ) V_rᵀ. The squared error is what
    is left of the spectrum, σ²_{r+1} + σ²_{r+2} + … (Eckart & Young, 1936,
    doi:10.1007/BF02288367). Both factors have the same norm in each component, so that neither
    is hard to train or to quantize.

    Args:
        matrix: shape (m, n).
        rank: r, from 1 to min(m, n).

    Returns:
        left (m, r) and right (r, n).

    Raises:
        TypeError, ValueError: no matrix of real finite numbers, or a rank beyond its limits.

    Chapter 5, Low-rank: matrices.
    """
    work = in_double(matrix, 2)
    check_int("rank", rank, min(work.shape))
    basis = left_vectors(work)[0][:, :rank]
    return tuple(factor.to(matrix) for factor in _balanced(basis, basis.T @ work))


def whitened_svd(matrix: Tensor, rank: int, gram: Tensor) -> tuple[Tensor, Tensor]:
    """The best factors of a rank for the data: least mean squared error of the outputs.

    For inputs x with second moment G = E[x xᵀ] the error is E‖W x − left · right · x‖². The
    outputs have the second moment W G Wᵀ; with U_r its first eigenvectors, left · right =
    U_r U_rᵀ W, and the error is the sum of the other eigenvalues. Nothing is inverted, so G may
    be singular; with G the identity this is `truncated_svd`.

    Args:
        matrix: W, shape (m, n).
        rank: r, from 1 to min(m, n).
        gram: G, shape (n, n).

    Returns:
        left (m, r) and right (r, n), of the same norm in each component.

    Raises:
        TypeError, ValueError: as for `truncated_svd`, or `gram` has another shape.

    Chapter 5, Low-rank: matrices.
    """
    work, gram = in_double(matrix, 2), in_double(gram, 2)
    if gram.shape != (work.shape[1],) * 2:
        raise ValueError(
            f"gram has shape {tuple(gram.shape)}; inputs of {work.shape[1]} numbers have a second"
            f" moment of shape {(work.shape[1],) * 2}"
        )
    return output_svd(matrix, rank, work @ gram @ work.T)


def output_svd(matrix: Tensor, rank: int, moment: Tensor) -> tuple[Tensor, Tensor]:
    """As `whitened_svd`, from the second moment of the outputs: U_r U_rᵀ W, U_r its eigenvectors.

    A convolution's outputs are easier to have than its inputs' second moment, which has I·kh·kw
    rows (Zhang et al., 2016, arXiv:1505.06798; they subtract the mean first). Directions into
    which no data went are ordered by the weights alone.

    Args:
        matrix: W, shape (m, n).
        rank: r, from 1 to min(m, n).
        moment: E[y yᵀ] of the outputs y = W x, shape (m, m).

    Returns, raises: as `whitened_svd`.

    Chapter 5, Low-rank: matrices.
    """
    work, moment = in_double(matrix, 2), in_double(moment, 2)
    check_int("rank", rank, min(work.shape))
    if moment.shape != (work.shape[0],) * 2:
        raise ValueError(
            f"the moment has shape {tuple(moment.shape)}; {work.shape[0]} outputs have one of"
            f" shape {(work.shape[0],) * 2}"
        )
    plain = work @ work.T
    moment, plain = (m / m.trace().clamp_min(TINY) for m in (moment, plain))
    # W's outputs lie in its columns' span: within it no rounding leads astray, and all of it is W.
    span, _ = left_vectors(work)
    basis = span @ leading_vectors(span.T @ (moment + _RIDGE * plain) @ span, rank)
    return tuple(factor.to(matrix) for factor in _balanced(basis, basis.T @ work))


def leading_vectors(gram: Tensor, count: int) -> Tensor:
    """The eigenvectors of the `count` largest eigenvalues of a symmetric matrix, as columns."""
    return torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :count]


def left_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The left singular vectors, as columns, and all singular values, largest first.

    A wide matrix is first turned into a square one by QR: several times faster than its SVD.
    """
    if matrix.shape[0] < matrix.shape[1]:
        matrix = torch.linalg.qr(matrix.T, mode="r").R.T
    vectors, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return vectors, values


def singular_values(matrix: Tensor) -> Tensor:
    """All singular values of a matrix, largest first, float64 on the CPU."""
    work = in_double(matrix, 2)
    wide = work if work.shape[0] <= work.shape[1] else work.T
    return torch.linalg.svdvals(torch.linalg.qr(wide.T, mode="r").R)


def in_double(tensor: Tensor, order: int | None = None) -> Tensor:
    """A real tensor in float64 on the CPU, without gradient.

    Raises:
        TypeError: it is no tensor of real numbers.
        ValueError: it has another number of axes than `order`, no entry, or one that is not finite.
    """
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"a tensor of floating-point numbers is needed, this is {kind}")
    if (order is not None and tensor.ndim != order) or tensor.numel() == 0:
        wanted = "" if order is None else f"{order} axes and "
        raise ValueError(
            f"the tensor has shape {tuple(tensor.shape)}; {wanted}at least one number are needed"
        )
    work = tensor.detach().to("cpu", torch.float64)
    if not work.isfinite().all():
        raise ValueError("the tensor holds NaN or infinity; nothing can be decomposed")
    return work


def check_int(name: str, value: int, largest: int) -> None:
    """Refuse what is no whole number from 1 to `largest`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from 1 to {largest}")


def _balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, with each component's column and row of the same norm."""
    columns, rows = left.norm(dim=0), right.norm(dim=1)
    scale = torch.where((rows > 0) & (columns > 0), (rows / columns).sqrt(), 1.0)
    return left * scale, right / scale[:, None]
