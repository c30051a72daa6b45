"""Crops of photographs that come with scikit-image and scikit-learn, for networks of ImageNet.

They have no labels of ImageNet: answers can be compared with each other, accuracy cannot be
measured. Crops for ranges and crops for comparisons are of different photographs.
"""

from itertools import product

import numpy as np
import torch
from skimage import data as skimage_data
from sklearn.datasets import load_sample_image
from torch import Tensor
from torchvision.transforms import functional

SIDE = 224
# What EfficientNet-Lite was trained with, for pixels from 0 to 1.
MEAN, STD = 0.498, 0.502
PHOTOGRAPHS = {
    "evaluation": {
        "cat": skimage_data.chelsea,
        "coffee": skimage_data.coffee,
        "rocket": skimage_data.rocket,
        "temple": lambda: load_sample_image("china.jpg"),
    },
    "calibration": {
        "astronaut": skimage_data.astronaut,
        "flower": lambda: load_sample_image("flower.jpg"),
        "galaxies": skimage_data.hubble_deep_field,
        "motorcycle": lambda: skimage_data.stereo_motorcycle()[0],
        "retina": skimage_data.retina,
        "tissue": skimage_data.immunohistochemistry,
    },
}
# Sides of the squares, as shares of the shorter side, and where they lie: from 0, at the left or
# the top, to 1, at the right or the bottom. Each is taken as it is and mirrored.
SHARES, PLACES = (0.9, 0.7, 0.5), (0.0, 0.5, 1.0)


def crops(use: str) -> tuple[Tensor, list[str]]:
    """54 crops of each photograph, normalized, (N, 3, 224, 224); and the photograph of each.

    Args:
        use: "evaluation" or "calibration".
    """
    found, names = [], []
    for name, load in PHOTOGRAPHS[use].items():
        image = torch.from_numpy(np.array(load())).permute(2, 0, 1)
        height, width = image.shape[1:]
        for share, vertical, horizontal in product(SHARES, PLACES, PLACES):
            side = round(share * min(height, width))
            top, left = round(vertical * (height - side)), round(horizontal * (width - side))
            crop = image[:, top : top + side, left : left + side]
            crop = functional.resize(crop, [SIDE, SIDE], antialias=True)
            found += [crop, crop.flip(-1)]
            names += [name, name]
    return (torch.stack(found).float() / 255 - MEAN) / STD, names
