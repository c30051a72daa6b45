"""A teacher's answers, kept by the very pictures that it saw.

A grid over temperatures asks one teacher the same questions at each point. Its answers belong
to pictures as augmented: a key that names the image alone would give the answer to one crop
for another. So the key is the content. Chapter 4 (Distillation: soft targets).
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from slimcnn.tracing import named_tensors


class TeacherCache:
    """Logits of one teacher by batches of pictures, in memory and, if wanted, in a file.

    A batch is known again only if every pixel is the same, in the same order: which it is in a
    second run of `fit` with the same seed, data, batch size and augmentation.

    Args:
        path: a file to begin with, if it exists, and to `save` to.

    Attributes:
        hits, misses: batches that were known, and that the teacher had to look at.

    Raises:
        ValueError: the file is damaged or something else.
    """

    def __init__(self, path: Path | str | None = None):
        self.path = Path(path) if path is not None else None
        self.hits = self.misses = 0
        self._teacher: str | None = None
        self._logits: dict[str, Tensor] = {}
        if self.path is not None and self.path.exists():
            try:
                with safe_open(self.path, "pt") as file:
                    self._teacher = (file.metadata() or {})["teacher"]
                    self._logits = {key: file.get_tensor(key) for key in file.keys()}
            except (SafetensorError, KeyError) as error:
                raise ValueError(
                    f"{self.path} is no cache of a teacher, or a damaged one; delete it"
                ) from error

    def logits(self, teacher: nn.Module, images: Tensor) -> Tensor:
        """What `teacher` answers to `images`, asked only if these were never seen.

        Args:
            teacher: in eval mode; always the same one.
            images: as the teacher takes them, shape (B, C, H, W).

        Returns:
            Logits (B, classes), on the device of the images, without gradients.

        Raises:
            ValueError: the cache holds another teacher's answers, or this one trains.
        """
        if any(module.training for module in teacher.modules()):
            raise ValueError(
                "the teacher trains: its answers depend on the batch; call eval() first"
            )
        asked = digest(named_tensors(teacher).values())
        if self._teacher not in (None, asked):
            raise ValueError(
                "the cache holds another teacher's answers; use a cache of its own for each"
                + (f", or delete {self.path}" if self.path else "")
            )
        self._teacher = asked
        key = digest([images])
        if key in self._logits:
            self.hits += 1
        else:
            self.misses += 1
            with torch.no_grad():
                self._logits[key] = teacher(images).detach().cpu()
        return self._logits[key].to(images.device)

    def save(self) -> None:
        """Write everything to the file, in place of what it held.

        Raises:
            ValueError: the cache has no path, or no answers yet.
        """
        if self.path is None or self._teacher is None:
            raise ValueError("nothing can be saved: the cache has no path or no answers yet")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        save_file(self._logits, partial, metadata={"teacher": self._teacher})
        os.replace(partial, self.path)


def digest(tensors: Iterable[Tensor]) -> str:
    """One hash of shapes, types and values of tensors, whatever their memory layout."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy())
    return found.hexdigest()
