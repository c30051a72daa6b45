"""Distillation: a small network learns from a large one, not from the labels alone.

    losses      soft targets with a temperature, alone and mixed with labels; decoupled
    features    taps in the middle of a network; hints, attention transfer, relations
    cache       a teacher's answers, kept by the very pictures that it saw
    distill     train a student with any of these, by `slimcnn.training.fit`

Chapter 4 (Distillation) derives all of it.
"""

from slimcnn.distillation.cache import TeacherCache
from slimcnn.distillation.distill import distill
from slimcnn.distillation.features import (
    AttentionTransfer,
    FeatureLoss,
    Hints,
    Relations,
    angle_loss,
    attention_loss,
    attention_map,
    distance_loss,
    tapped,
)
from slimcnn.distillation.losses import (
    Decoupled,
    SoftTargets,
    decoupled_loss,
    distillation_loss,
    soft_target_loss,
)

__all__ = [
    "AttentionTransfer",
    "Decoupled",
    "FeatureLoss",
    "Hints",
    "Relations",
    "SoftTargets",
    "TeacherCache",
    "angle_loss",
    "attention_loss",
    "attention_map",
    "decoupled_loss",
    "distance_loss",
    "distill",
    "distillation_loss",
    "soft_target_loss",
    "tapped",
]
