"""Every "now" of the migration page runs on data such as its "before" had, and trains on batches of the shapes that it promises."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_readme import make_inputs

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "migrating.md").read_text()
SECTIONS = dict(re.findall(r"^## From (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def sample(index: int) -> dict[str, Any]:
    """Return a row as somebody's function makes it."""
    return {"x": np.full(8, index, np.float32), "label": index % 10}


def given(folder: Path) -> dict[str, Any]:
    """Return the names that the page's code takes for granted."""
    pictures = sorted((folder / "raw").rglob("*.jpg"))
    return {
        "streaming_dataset": [sample(index) for index in range(200)],
        "make_sample": sample,
        "encoded_images": [(path.read_bytes(), number % 10) for number, path in enumerate(pictures)],
    }


def label_shards(folder: Path) -> None:
    """Put a class beside every image of the tars."""
    for path in sorted((folder / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            files = [(member.name, tar.extractfile(member)) for member in tar]
            found = [(name, file.read()) for name, file in files if file is not None]
        with tarfile.open(path, "w") as tar:
            for number, (name, data) in enumerate(found):
                for suffix, part in ((".jpg", data), (".cls", str(number).encode())):
                    info = tarfile.TarInfo(Path(name).stem + suffix)
                    info.size = len(part)
                    tar.addfile(info, io.BytesIO(part))


def test_the_page_has_a_section_for_each() -> None:
    """Every loader that people come from has its section, with one block before and one now."""
    assert list(SECTIONS) == ["torch", "WebDataset", "MosaicML Streaming", "LitData", "FFCV"]
    for text in SECTIONS.values():
        assert re.findall(r"^(Before|Now):\n\n```python$", text, re.MULTILINE) == ["Before", "Now"]


@pytest.mark.parametrize(
    ("name", "steps", "shape"),
    [
        ("torch", 6, (32, 3, 64, 64)),
        ("WebDataset", 1, (12, 3, 64, 64)),
        ("MosaicML Streaming", 7, (32, 8)),
        ("LitData", 6, (32, 8)),
        ("FFCV", 3, (32, 3, 64, 64)),
    ],
)
def test_what_the_page_says_runs(name: str, steps: int, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code behind "Now:" runs as it stands, and hands training as many batches as the data have, of the shape that the ops make."""
    make_inputs(tmp_path)
    label_shards(tmp_path)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^Now:\n\n```python\n(.*?)^```$", SECTIONS[name], re.MULTILINE | re.DOTALL)
    seen: list[tuple[torch.Tensor, Any]] = []
    exec(compile(code, name, "exec"), {**given(tmp_path), "train": lambda data, labels: seen.append((data, labels))})
    assert len(seen) == steps
    assert tuple(seen[0][0].shape) == shape
    assert len(seen[0][1]) == shape[0]
