"""Importing the room brings nothing heavy; its names come on first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import penstock.transforms as tr

HEAVY = ("numba", "torch", "PIL", "simplejpeg", "sklearn", "pandas", "pyarrow")


def loaded_after(program: str) -> set[str]:
    """Return which heavy modules a fresh interpreter has loaded after a program."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\nprint(*(name for name in {HEAVY} if name in sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_import_is_light() -> None:
    """Importing the package loads none of the heavy libraries."""
    assert loaded_after("import penstock.transforms") == set()


def test_the_light_test_can_fail() -> None:
    """Touching an op loads what it needs, and the test above would see it; torch is needed by none."""
    loaded = loaded_after("import penstock.transforms as tr\ntr.Resize(4)")
    assert "simplejpeg" in loaded
    assert "torch" not in loaded_after(
        "import penstock.transforms as tr\nfrom penstock.transforms import chain\n[getattr(tr, name) for name in tr.__all__]"
    )


def test_names_are_handed_out() -> None:
    """Every public name exists, is listed by dir(), is documented, and comes back the same."""
    for name in tr.__all__:
        value = getattr(tr, name)
        assert value is getattr(tr, name)
        assert value.__doc__
        assert name in dir(tr)


def test_an_unknown_name_lists_those_that_exist() -> None:
    """A misspelt op is an AttributeError that shows the list."""
    with pytest.raises(AttributeError, match=r"no attribute 'Rezise'; its ops are Cast, CenterCrop, .*Resize"):
        _ = tr.Rezise
