"""Tucker-2 and CP of ResNet-18's convolutions: slimcnn against TensorLy, at equal error.

    python benchmarks/lowrank.py [largest number of channels, 256 if not given]

For Tucker-2 both iterate to convergence. For CP, slimcnn runs to its own stop, and TensorLy, from
the same kind of start, until it is as near to the kernel, 1,000 sweeps at most; once as it comes,
once with its line search. The kernels have ResNet-18's shapes and falling spectra, as trained ones
do. Prints medians of interleaved runs on one thread, and their ratio; below 1 slimcnn is faster.
"""

import statistics
import sys
import time
import warnings
from collections.abc import Callable

import tensorly
import torch
from tensorly.decomposition import parafac, partial_tucker
from torch import Tensor

from slimcnn import lowrank

# (outputs, inputs, side of the kernel) of the different convolutions that are not 1×1.
SHAPES = (
    *((64, 3, 7), (64, 64, 3), (128, 64, 3), (128, 128, 3)),
    *((256, 128, 3), (256, 256, 3), (512, 256, 3), (512, 512, 3)),
)
ROUNDS = 3
SWEEPS = 1000

Job = Callable[[], float]  # returns the relative error


def kernel(outputs: int, inputs: int, side: int) -> Tensor:
    """Random numbers, their singular vectors along each axis scaled by a power of their place."""
    tensor = torch.randn(outputs, inputs, side * side)
    for axis, size in enumerate(tensor.shape):
        basis = torch.linalg.qr(torch.randn(size, size)).Q * torch.arange(1, size + 1) ** -0.7
        tensor = torch.tensordot(tensor, basis, ([axis], [1])).movedim(-1, axis)
    return tensor.unflatten(2, (side, side))


def relative(tensor: Tensor, approximation: Tensor) -> float:
    """‖difference‖ / ‖tensor‖."""
    return float((tensor - approximation).norm() / tensor.norm())


def compare(name: str, jobs: dict[str, Job]) -> None:
    """Time all, one after the other in every round; the first is slimcnn."""
    times: dict[str, list[float]] = {label: [] for label in jobs}
    errors = {}
    for _ in range(ROUNDS):
        for label, job in jobs.items():
            began = time.perf_counter()
            errors[label] = job()
            times[label].append(time.perf_counter() - began)
    ours, *rivals = ((label, statistics.median(found)) for label, found in times.items())
    text = f"{name}: slimcnn {ours[1]:.2f} s (error {errors['slimcnn']:.4f})"
    for label, seconds in rivals:
        text += f"; {label} {seconds:.2f} s ({errors[label]:.4f}), ratio {ours[1] / seconds:.2f}"
    print(text, flush=True)


def tucker_jobs(tensor: Tensor) -> dict[str, Job]:
    """Half of the channels on both sides."""
    ranks = (tensor.shape[0] // 2, max(1, tensor.shape[1] // 2))

    def ours() -> float:
        return relative(tensor, lowrank.tucker2(tensor, ranks).reconstruct())

    def theirs() -> float:
        (core, factors), _ = partial_tucker(tensor, ranks, modes=[0, 1])
        return relative(tensor, torch.einsum("abyx,oa,ib->oiyx", core, *factors))

    return {"slimcnn": ours, "TensorLy": theirs}


def cp_jobs(tensor: Tensor) -> dict[str, Job]:
    """A quarter of the weights."""
    tensor = tensor.flatten(2)
    rank = tensor.numel() // (4 * sum(tensor.shape))
    target = lowrank.cp(tensor, rank).errors[-1]

    def ours() -> float:
        return lowrank.cp(tensor, rank).errors[-1]

    def theirs(line_search: bool) -> float:
        found = []

        def stop(_: object, error: Tensor) -> bool:
            found.append(float(error))
            return found[-1] <= target

        parafac(tensor, rank, n_iter_max=SWEEPS, tol=1e-12, linesearch=line_search, callback=stop,
                random_state=0)  # fmt: skip
        return found[-1]

    return {
        "slimcnn": ours,
        "TensorLy": lambda: theirs(False),
        "with line search": lambda: theirs(True),
    }


def main() -> None:
    """Both decompositions of each shape."""
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tensorly.set_backend("pytorch")
    warnings.simplefilter("ignore")  # TensorLy asks for more singular vectors than there are
    for shape in SHAPES:
        if max(shape) <= largest:
            tensor, name = kernel(*shape), "{} x {}, {} x {}".format(*shape, shape[-1])
            compare(f"Tucker-2 of {name}", tucker_jobs(tensor))
            compare(f"CP of {name}", cp_jobs(tensor))


if __name__ == "__main__":
    main()
