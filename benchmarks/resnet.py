"""ResNet (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016) with bottleneck blocks: the training step that loaders are measured against.

Written out since torchvision has no build for every torch that is tested; stride stands in the 3 x 3 convolution, as torchvision has it.
"""

from __future__ import annotations

import torch
from torch import nn

RESNET_50 = (3, 4, 6, 3)
"""Blocks of each stage."""


class Bottleneck(nn.Module):
    """Three convolutions around a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        """Take `channels`, work on `width`, give four times as many."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.BatchNorm2d(4 * width),
        )
        same = stride == 1 and channels == 4 * width
        self.shortcut = nn.Identity() if same else nn.Sequential(nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[B, 4 * width, H / stride, W / stride]`."""
        found: torch.Tensor = torch.relu(self.body(x) + self.shortcut(x))
        return found


def resnet(blocks: tuple[int, ...] = RESNET_50, classes: int = 1000, width: int = 64) -> nn.Module:
    """Return the network for float images `[B, 3, H, W]`."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            layers.append(Bottleneck(channels, width * 2**stage, 2 if stage and not block else 1))
            channels = 4 * width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
