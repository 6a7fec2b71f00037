"""The benchmark of a GPU runs: small on the host, where its figures mean nothing, and whole on CUDA."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.resnet import resnet


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> dict[str, Any]:
    """Run the program; return what it saved."""
    monkeypatch.setattr(sys, "argv", ["gpu", "--data", str(folder), "--json", str(folder / "found.json"), "--rounds", "2", *arguments])
    gpu.main()
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def test_the_network_is_resnet_50() -> None:
    """It has as many parameters as the paper's network has with its last layer for 1,000 classes."""
    assert sum(parameter.numel() for parameter in resnet().parameters()) == 25_557_032


def test_it_runs_without_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network on the host is fed and not fed in turn, and the ratio of each round is saved."""
    small = ("--steps", "1", "--batch-size", "2", "--rows", "12", "--workers", "1", "--width", "4", "--device", "cpu")
    found = run(monkeypatch, tmp_path, *small)
    assert len(found["fed over resident"]) == 2
    assert all(ratio > 0 for ratio in found["fed over resident"])


@pytest.mark.gpu
def test_it_runs_whole_on_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device every part runs, and no call of next() waits; how fast is for the page of figures, not for a test."""
    found = run(monkeypatch, tmp_path, "--steps", "5", "--rows", "1024", "--workers", "2")
    assert found["waits of the host in next()"] == 0
    assert len(found["copy over pinned copy"]) == 2
    assert torch.cuda.is_available()
