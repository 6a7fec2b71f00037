"""Views: what folds, what must be carried out first, and at which scale a JPEG may be decoded."""

from __future__ import annotations

import pytest

from penstock.transforms.geometry import Crop, Flip, Scale, Step, View


def folded(height: int, width: int, *steps: Step) -> View:
    """Return the view of steps that all fold."""
    view = View.whole(height, width)
    for step in steps:
        longer = view.then(step)
        assert longer is not None
        view = longer
    return view


def test_crop_scale_crop_flip_is_one_pass() -> None:
    """The usual training and evaluation chains fold into one view."""
    view = folded(375, 500, Crop((10, 20, 300, 400)), Scale(256, 341), Crop((16, 58, 224, 224)), Flip())
    assert (view.source, view.scale, view.window, view.flipped) == ((10, 20, 300, 400), (256, 341), (16, 58, 224, 224), True)
    assert view.size == (224, 224)


def test_crops_of_crops_add_up() -> None:
    """Crops before a resize narrow the source, crops behind it the window, and a flip mirrors those that follow."""
    assert folded(100, 100, Crop((10, 10, 50, 50)), Crop((5, 6, 7, 8))).source == (15, 16, 7, 8)
    assert folded(100, 100, Scale(50, 50), Crop((10, 10, 20, 20)), Crop((1, 2, 3, 4))).window == (11, 12, 3, 4)
    assert folded(100, 100, Flip(), Crop((0, 0, 10, 10))).source == (0, 90, 10, 10)
    assert folded(100, 100, Flip(), Flip()) == View.whole(100, 100)


def test_same_size_is_no_resize() -> None:
    """Resizing to the size there is changes nothing."""
    assert folded(30, 40, Scale(30, 40)) == View.whole(30, 40)


@pytest.mark.parametrize(
    "steps",
    [
        (Scale(50, 50), Scale(20, 20)),
        (Flip(), Scale(20, 20)),
        (Crop((-1, 0, 30, 30)), Scale(20, 20)),
        (Scale(50, 50), Crop((10, 10, 20, 20)), Crop((-1, 0, 20, 20))),
    ],
)
def test_what_does_not_fold(steps: tuple[Step, ...]) -> None:
    """A second resize, a resize behind a flip or padding, and padding around a window are carried out one after the other."""
    view = folded(100, 100, *steps[:-1])
    assert view.then(steps[-1]) is None
    assert View.whole(*view.size).then(steps[-1]) is not None


@pytest.mark.parametrize(
    ("size", "steps", "factor"),
    [
        ((800, 800), (Scale(75, 75),), 8),
        ((800, 800), (Scale(76, 75),), 4),
        ((800, 800), (Scale(300, 300),), 2),
        ((800, 800), (Scale(301, 1),), 1),
        ((800, 800), (Crop((0, 0, 100, 100)), Scale(18, 18)), 4),
        ((800, 800), (Crop((0, 0, 10, 10)),), 1),
        ((60, 60), (Scale(1, 1),), 1),
        ((64, 8), (Scale(2, 1),), 4),
    ],
)
def test_scale_of_decoding(size: tuple[int, int], steps: tuple[Step, ...], factor: int) -> None:
    """The largest reduction that leaves 4/3 of the pixels that come out, both ways; none without a resize and none for tiny pictures."""
    assert folded(*size, *steps).factor() == factor
