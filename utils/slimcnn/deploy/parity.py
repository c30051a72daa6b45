"""Does a file compute what the network computed? A gate that nothing ships without passing."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from slimcnn import metrics


class ParityError(RuntimeError):
    """A file does not compute what its network computed."""


@dataclass(frozen=True)
class Gate:
    """What a file must keep to.

    Attributes:
        error: largest relative error: root mean square of the differences over that of the
            network's outputs.
        contrast: largest error relative to what tells inputs apart: root mean square of the
            differences over that of the outputs without their mean. An untrained network answers
            nearly alike whatever it sees, and then `error` would not notice wrong inputs.
        agreement: least share of equal answers, percent.
        accuracy: largest loss of accuracy, points, where there are labels. It is refused if the
            95 % interval of the paired difference says that more is lost.
    """

    error: float
    agreement: float
    contrast: float = inf
    accuracy: float = 0.5


# Other orders of sums are all that tells float32 from float32; rounding to int8 is visible.
FLOAT = Gate(error=1e-3, agreement=99.5, contrast=0.05)
INT8 = Gate(error=0.15, agreement=97.0)
GATES = {"float32": FLOAT, "int8": INT8}


@dataclass(frozen=True)
class Parity:
    """How a program's outputs compare with those of its network.

    Attributes:
        difference: largest absolute difference of an output.
        error: root mean square of the differences over that of the network's outputs.
        contrast: the same over that of the outputs without their mean over the inputs; None for a
            single input.
        agreement: share of inputs with the same answer, percent.
        accuracy: of network and program, percent; None without labels.
        inputs: how many were compared.
        failures: what the gate refuses, in words.
    """

    difference: float
    error: float
    contrast: float | None
    agreement: float
    accuracy: tuple[float, float] | None
    inputs: int
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    def require(self) -> "Parity":
        """Itself, if the gate is passed.

        Raises:
            ParityError: with everything that the gate refuses.
        """
        if self.failures:
            raise ParityError(
                f"the file does not compute what the network computed: {'; '.join(self.failures)}."
                " Compare its input (order of channels, normalization) and the network's mode"
                " (model.eval() before any export)"
            )
        return self

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "refused: " + "; ".join(self.failures)
        return (
            f"largest difference {self.difference:.2g}, relative error {self.error:.2g},"
            f" {self.agreement:.2f} % agree; {verdict}"
        )


@torch.no_grad()
def parity(
    reference: Callable[[Tensor], Tensor],
    program: Callable[[Tensor], Tensor],
    inputs: Tensor,
    labels: Tensor | None = None,
    gate: Gate = FLOAT,
) -> Parity:
    """Compare a program with the network that it was made from.

    Args:
        reference: the network, in eval mode; or any function of the inputs.
        program: what `Runtime.load` gave, or any function of the inputs.
        inputs: real ones, as the reference takes them, (N, ...).
        labels: (N,), for accuracies.
        gate: `FLOAT` for files in floating point, `INT8` for rounded ones, or your own.

    Raises:
        ValueError: there are no inputs, or labels of another number.
    """
    if len(inputs) == 0 or (labels is not None and len(labels) != len(inputs)):
        given = "no" if labels is None else len(labels)
        raise ValueError(f"there are {len(inputs)} inputs and {given} labels; give a label each")
    expected = reference(inputs).detach().cpu().float()
    found = program(inputs).detach().cpu().float()
    if found.shape != expected.shape:
        wrong = f"outputs have the shape {tuple(found.shape)}, not {tuple(expected.shape)}"
        return Parity(inf, inf, inf, 0.0, None, len(inputs), (wrong,))
    if not found.isfinite().all() or not expected.isfinite().all():
        wrong = "some outputs are no finite numbers"
        return Parity(inf, inf, inf, 0.0, None, len(inputs), (wrong,))
    error = relative_error(expected, found)
    contrast = None
    if len(inputs) > 1:
        mean = expected.mean(0)
        contrast = relative_error(expected - mean, found - mean)
    agreement = metrics.agreement(expected, found)
    accuracy, failures = None, []
    if error > gate.error:
        share = f"{100 * error:.3g} %, allowed are {100 * gate.error:g} %"
        failures.append(f"outputs are off by {share}")
    elif contrast is not None and contrast > gate.contrast:
        share = f"{100 * contrast:.3g} %, allowed are {100 * gate.contrast:g} %"
        failures.append(f"outputs are off by {share} of what tells inputs apart")
    if agreement < gate.agreement:
        failures.append(f"{agreement:.2f} % of the answers agree, {gate.agreement:g} % must")
    if labels is not None:
        accuracy = metrics.accuracy(expected, labels), metrics.accuracy(found, labels)
        right = [logits.argmax(1) == labels.cpu() for logits in (expected, found)]
        change = metrics.paired_bootstrap(*right)
        if change.high < -gate.accuracy:
            failures.append(
                f"accuracy falls by {-change.difference:.2f} points, allowed are {gate.accuracy:g}"
            )
    difference = float((found - expected).abs().max())
    return Parity(difference, error, contrast, agreement, accuracy, len(inputs), tuple(failures))


def relative_error(expected: Tensor, found: Tensor) -> float:
    """Root mean square of the differences over that of what was expected; 0 if both are 0."""
    difference, size = (found - expected).double().norm(), expected.double().norm()
    return float(difference / size) if size > 0 else (inf if difference > 0 else 0.0)
