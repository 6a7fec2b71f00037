"""What a user installs is what the tests ran: a wheel, in a clean environment, away from this source tree."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import penstock

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("cli", "ingest", "integrations", "loaders", "shards", "transforms")

LOAD = """
import sys
import penstock as ps
assert ps.__file__.startswith(sys.prefix), ps.__file__
transforms = {"image": [ps.transforms.Resize(16), ps.transforms.CenterCrop(16), ps.transforms.Normalize([0.5] * 3, [0.5] * 3)]}
if __name__ == "__main__":
    loader = ps.DataLoader(ps.Dataset("out"), batch_size=4, shuffle=True, num_workers=1, seed=1, transforms=transforms)
    batch = next(iter(loader))
    print(tuple(batch["image"].shape), batch["image"].dtype, sorted(batch))
"""


def run(*command: str | Path, cwd: Path, limit_s: int = 120) -> str:
    """Run a program to its end and return what it said; a failure shows everything it said."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV", "VIRTUAL_ENV"))}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=limit_s)
    assert done.returncode == 0, f"{command} left with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, so that no build folder is left in the tree."""
    copy = tmp_path_factory.mktemp("source") / "any name"
    skip = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "tests", "benchmarks", "build", "dist", "demo_out")
    shutil.copytree(ROOT, copy, ignore=skip)
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, copy, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return an environment that holds the wheel and what it asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", folder / "env", cwd=folder)
    pip = (folder / "env/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
    run(*pip, "-c", ROOT / "constraints.txt", wheel, cwd=folder, limit_s=900)
    yield folder / "env/bin"
    shutil.rmtree(folder, ignore_errors=True)


def test_wheel_holds_the_rooms_and_nothing_else(wheel: Path) -> None:
    """Every source file of the package is in the wheel with the licence and the typing mark; tests, benchmarks and helpers are not."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    own = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
    assert names == {f"penstock/{path.relative_to(ROOT).as_posix()}" for path in own} | {"penstock/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


@pytest.mark.timeout(1000)
def test_an_installed_wheel_converts_and_loads(clean: Path, tmp_path: Path) -> None:
    """In a clean environment `penstock --version`, a small conversion and a batch through a worker work without the source tree."""
    for number in range(8):
        data = io.BytesIO()
        Image.new("RGB", (24, 20), (number * 30, 0, 0)).save(data, "JPEG")
        path = tmp_path / "raw" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.getvalue())
    assert run(clean / "penstock", "--version", cwd=tmp_path).strip() == f"penstock {penstock.__version__}"
    run(clean / "penstock", "convert", "raw", "out", cwd=tmp_path)
    (tmp_path / "load.py").write_text(LOAD)
    assert run(clean / "python", "load.py", cwd=tmp_path).startswith("(4, 3, 16, 16) torch.float32 ['image', ")


def test_public_names_are_handed_on() -> None:
    """Every public name is there, is listed by dir, and is the one its room holds; another name is refused with the list."""
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None
        assert name in dir(penstock)
    assert penstock.Image is penstock.fields.Image
    with pytest.raises(AttributeError, match=r"no attribute 'Nonsense'; it has Array, Audio, "):
        _ = penstock.Nonsense
