"""Losses on what lies inside the networks, and the taps that fetch it.

A feature loss compares outputs of modules of the student with outputs of modules of the
teacher, found by their names. Chapter 4 (Distillation: features) derives them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimcnn.distillation.losses import result_type

# Names of modules: (in the student, in the teacher).
Pair = tuple[str, str]


@contextmanager
def tapped(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block, each pass of `model` leaves the outputs of the named modules.

    What is left are copies, so that a layer that works in place (most ReLUs do) does not change
    them; gradients flow through. The hooks go when the block ends, on errors too.

    Args:
        model: any network.
        names: of its modules, as `named_modules` has them: "stage2", "blocks.3.relu2"; a name
            may come twice.

    Yields:
        A dictionary that a pass fills: the names, in the order of the pass.

    Raises:
        KeyError: there is no module of that name; the message has the near ones.
        TypeError, RuntimeError: in the pass, a module answers with something else than a tensor,
            or is used several times, so that "its output" says too little.
    """
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            near = get_close_matches(name, modules, n=5, cutoff=0.4) or list(modules)[1:6]
            raise KeyError(f"{type(model).__name__} has no module {name!r}; near: {near}")
    found: dict[str, Tensor] = {}

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise TypeError(f"module {name!r} answers with a {type(output).__name__}")
            if name in found:
                raise RuntimeError(f"module {name!r} is used twice in a pass; tap another one")
            found[name] = output.clone()

        return hook

    def forget(module: nn.Module, inputs: tuple) -> None:
        found.clear()

    handles = [model.register_forward_pre_hook(forget)]
    for name in dict.fromkeys(names):
        handles.append(modules[name].register_forward_hook(hook_for(name)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class FeatureLoss(nn.Module):
    """A loss between tapped features; `distill` adds `weight` times it.

    Args:
        pairs: names of modules, (in the student, in the teacher); at least one pair.
        weight: above 0.

    Attributes:
        own, others: the names in the student, and those in the teacher.

    Raises:
        ValueError: there is no pair, or the weight is not above 0.
    """

    def __init__(self, pairs: Sequence[Pair], weight: float):
        super().__init__()
        if not pairs:
            raise ValueError("there are no pairs; give at least one (student, teacher) pair")
        if not 0 < weight < float("inf"):
            raise ValueError(f"weight is {weight}; it must be above 0")
        self.pairs, self.weight = tuple(pairs), weight
        self.own, self.others = zip(*self.pairs, strict=True)

    def build(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> None:
        """Check examples of the features, one a pair, and make what is trained with them."""
        for (mine, other), s, t in zip(self.pairs, students, teachers, strict=True):
            self.check(f"{mine!r} and {other!r}", s, t)

    def check(self, names: str, student: Tensor, teacher: Tensor) -> None:
        """Refuse features that this loss cannot compare."""
        if student.ndim != 4 or teacher.ndim != 4:
            raise ValueError(
                f"the features {names} have shapes {tuple(student.shape)} and"
                f" {tuple(teacher.shape)}; (batch, channels, height, width) is needed"
            )

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """Mean over the pairs of `compare`."""
        pairs = enumerate(zip(students, teachers, strict=True))
        return torch.stack([self.compare(i, s, t) for i, (s, t) in pairs]).mean()

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of one pair, a scalar."""
        raise NotImplementedError


class Hints(FeatureLoss):
    """The teacher's feature maps, predicted from the student's by 1×1 convolutions.

    Mean squared error per number. The regressors give the student's maps the teacher's number of
    channels; they are trained along and thrown away. Romero et al., 2015 (FitNets),
    arXiv:1412.6550; there the hint comes first and alone, here beside the other losses.
    Chapter 4, Distillation: features.
    """

    def build(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> None:
        """Make the regressors."""
        super().build(students, teachers)
        pairs = zip(students, teachers, strict=True)
        self.regressors = nn.ModuleList(nn.Conv2d(s.shape[1], t.shape[1], 1) for s, t in pairs)

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean squared error of the regressor.

        Raises:
            RuntimeError: there are no regressors yet.
        """
        if not hasattr(self, "regressors"):
            raise RuntimeError("the regressors are not made yet; `build` them, as `distill` does")
        student, teacher = _same_size(self.regressors[index](student), teacher)
        return F.mse_loss(student, teacher)


class AttentionTransfer(FeatureLoss):
    """Where a network looks: `attention_loss` between feature maps of any number of channels.

    Zagoruyko & Komodakis, 2017, arXiv:1612.03928; chapter 4, Distillation: features.
    """

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Distance of the attention maps."""
        return attention_loss(student, teacher)


class Relations(FeatureLoss):
    """How images relate: `distance_loss` + 2 · `angle_loss` between embeddings.

    The embeddings may differ in length: only relations inside a batch are compared. Triangles grow
    as the cube of their images, so a batch of more than 64 is split into equal parts for the
    angles. Park et al., 2019, arXiv:1904.05068, weigh angles twice as much as distances. Chapter 4,
    Distillation: features. A batch of fewer than three images, the rest of an epoch, counts 0.
    """

    _LARGEST = 64  # images whose triangles are compared

    def check(self, names: str, student: Tensor, teacher: Tensor) -> None:
        """Any features will do; they are flattened."""

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Distances and angles."""
        student, teacher = student.flatten(1), teacher.flatten(1)
        if len(student) < 3:  # the rest of an epoch, without a triangle
            return student.new_zeros(())
        distances = distance_loss(student, teacher)
        parts = -(-len(student) // self._LARGEST)
        pairs = zip(student.tensor_split(parts), teacher.tensor_split(parts), strict=True)
        return distances + 2 * torch.stack([angle_loss(s, t) for s, t in pairs]).mean()


def attention_map(features: Tensor) -> Tensor:
    """Mean of squares over channels, flattened, of length 1. (B, C, H, W) → (B, H·W)."""
    return F.normalize(_single(features).square().mean(1).flatten(1), dim=1)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the two attention maps, mean over the batch: 0 to 2.

    Args:
        student, teacher: (B, C, H, W); channels may differ, the larger map is pooled to the
            smaller one.

    Raises:
        ValueError: the numbers of images differ.

    Zagoruyko & Komodakis, 2017, arXiv:1612.03928; chapter 4, Distillation: features.
    """
    if len(student) != len(teacher):
        raise ValueError(
            f"the maps have shapes {tuple(student.shape)} and {tuple(teacher.shape)}; both must be"
            " of the same images"
        )
    student, teacher = _same_size(student, teacher)
    return (attention_map(student) - attention_map(teacher)).square().sum(1).mean()


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between distances of all pairs of images, each in units of its mean.

    Args:
        student, teacher: embeddings, (B, D) and (B, E), at least 2 images.

    Raises:
        ValueError: shapes are otherwise.

    Park et al., 2019, arXiv:1904.05068; chapter 4, Distillation: features.
    """
    _check_embeddings(student, teacher, 2)
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the cosines of the angles in all triangles of three images.

    Args:
        student, teacher: embeddings, (B, D) and (B, E), at least 3 images; memory grows as B³.

    Raises:
        ValueError: shapes are otherwise.

    Park et al., 2019, arXiv:1904.05068; chapter 4, Distillation: features.
    """
    _check_embeddings(student, teacher, 3)
    count = len(student)
    same = torch.eye(count, dtype=torch.bool, device=student.device)  # i = k: no triangle
    mine, its = (_cosines(e).masked_fill(same, 0) for e in (student, teacher))
    total = F.smooth_l1_loss(mine, its, reduction="sum")  # i = j and k = j: zero in both
    return total / (count * (count - 1) * (count - 2))


def _relative_distances(embeddings: Tensor) -> Tensor:
    """(B, D) → (B·(B−1)/2,), mean 1."""
    i, j = torch.triu_indices(*[len(embeddings)] * 2, offset=1, device=embeddings.device)
    embeddings = _single(embeddings)
    distances = (embeddings[i] - embeddings[j]).norm(dim=1)
    return distances / distances.mean().clamp(min=torch.finfo(distances.dtype).tiny)


def _cosines(embeddings: Tensor) -> Tensor:
    """[j, i, k]: cosine of the angle at image j between images i and k. (B, D) → (B, B, B)."""
    embeddings = _single(embeddings)
    directions = F.normalize(embeddings[None] - embeddings[:, None], dim=2)  # from j to i
    return directions @ directions.transpose(1, 2)


def _single(features: Tensor) -> Tensor:
    """In float32 or better: squares of half precision overflow, and small lengths vanish."""
    return features.to(result_type(features))


def _same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and width."""
    size = [min(s, t) for s, t in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)


def _check_embeddings(student: Tensor, teacher: Tensor, least: int) -> None:
    shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        raise ValueError(f"the embeddings have shapes {shapes}; (B, D) and (B, E) are needed")
    if len(student) < least:
        raise ValueError(f"the embeddings have shapes {shapes}; at least {least} images are needed")
