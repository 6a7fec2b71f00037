"""Before any test: kernels are compiled, and Ctrl-C is heard.

On a fresh machine the first process that needs a kernel says that it compiles, which some tests would hear. A shell that starts the tests in the
background may have them ignore SIGINT, and so every process that they start and interrupt.
"""

from __future__ import annotations

import importlib
import signal

import pytest

import penstock as ps
from penstock import order
from penstock.loaders import gather
from penstock.transforms import color, random, resample


def pytest_sessionstart() -> None:
    """Have all machine code ready, and processes that can be interrupted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not importlib.import_module("torch").cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.fixture(scope="session")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Return 50 rows that say their number."""
    path = tmp_path_factory.mktemp("fifty") / "d"
    with ps.Writer(path, fields={"n": ps.Scalar("int64")}) as writer:
        for i in range(50):
            writer.write({"n": i})
    return ps.Dataset(path)
