"""Compile the kernels before any test: on a fresh machine the first process that needs one says that it compiles, which some tests would hear."""

from __future__ import annotations

from penstock import order
from penstock.loaders import gather
from penstock.transforms import color, random, resample


def pytest_sessionstart() -> None:
    """Have all machine code ready."""
    for kernel in (
        order._permute,
        gather._gather,
        random.philox,
        resample.fused,
        color._gray_of,
        color._through_table,
        color._saturate,
        color._turn_hue,
    ):
        kernel.load()
