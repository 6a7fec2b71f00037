"""The dataset of images that torch's DataLoader is given: decoded with simplejpeg, cropped and resized with Pillow, normalised in float32."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from .rivals.augmentation import MEAN, SIDE, STD, crop

SCALE = (1 / (255 * np.array(STD))).astype(np.float32)[:, None, None]
SHIFT = (np.array(MEAN) / np.array(STD)).astype(np.float32)[:, None, None]


class Images(torch.utils.data.Dataset[Any]):
    """JPEG files in class folders, made into training images."""

    def __init__(self, folder: Path) -> None:
        """List the files."""
        self.files = sorted(folder.glob("*/*.jpg"))
        self.names = {name: number for number, name in enumerate(sorted({file.parent.name for file in self.files}))}

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        """Return a training image and its class."""
        file = self.files[index]
        pixels = simplejpeg.decode_jpeg(file.read_bytes())
        top, left, height, width = crop(*pixels.shape[:2])
        image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
        pixels = np.asarray(image)
        if random.random() < 0.5:
            pixels = pixels[:, ::-1]
        array = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
        array *= SCALE
        array -= SHIFT
        return {"image": array, "label": self.names[file.parent.name]}
