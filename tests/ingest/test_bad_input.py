"""Bad input: sources that cannot be read, and images among good ones. Each has its clear error, and good rows are never lost with bad ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from contracts.raw import image_folder, jpeg, nothing_published, picture, quarantine, rows_of, run

from penstock.errors import BadData, BadRequest, NotADataset


def test_missing_source(tmp_path: Path) -> None:
    """A path that is not there is named, and no destination is made."""
    with pytest.raises(NotADataset, match=r"nowhere: no such file or folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_empty_folder(tmp_path: Path) -> None:
    """A folder without files is named, and no destination is made."""
    (tmp_path / "raw").mkdir()
    with pytest.raises(BadRequest, match=r"raw: the folder is empty"):
        run(tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pattern_without_files(tmp_path: Path) -> None:
    """A glob that matches nothing, and a brace pattern with a missing file, are refused by name."""
    with pytest.raises(NotADataset, match="matches no file"):
        run(f"{tmp_path}/*.csv", tmp_path / "out")
    (tmp_path / "a-0.csv").write_text("x\n1\n")
    with pytest.raises(NotADataset, match=r"a-1\.csv does not exist"):
        run(f"{tmp_path}/a-{{0..1}}.csv", tmp_path / "out")


def test_several_kinds_together(tmp_path: Path) -> None:
    """A folder with files of several kinds is refused with the counts, and `kind` chooses."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.csv").write_text("x\n1\n")
    (tmp_path / "raw" / "b.jsonl").write_text('{"x": 1}\n{"x": 2}\n')
    with pytest.raises(BadRequest, match=r"1 of csv, 1 of jsonl.*--from"):
        run(tmp_path / "raw", tmp_path / "out")
    assert run(tmp_path / "raw", tmp_path / "out", kind="jsonl").rows_out == 2


def test_unknown_and_compressed_files(tmp_path: Path) -> None:
    """Files of no known kind are counted by suffix; compressed ones are to be unpacked."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.xyz").write_bytes(b"x")
    with pytest.raises(BadRequest, match=r"1 x \.xyz.*--from"):
        run(tmp_path / "raw", tmp_path / "out")
    (tmp_path / "raw" / "a.xyz").rename(tmp_path / "raw" / "a.gz")
    with pytest.raises(BadRequest, match="unpack"):
        run(tmp_path / "raw", tmp_path / "out")


def test_url_source(tmp_path: Path) -> None:
    """A URL is refused by its scheme."""
    with pytest.raises(BadRequest, match="s3"):
        run("s3://bucket/raw", tmp_path / "out")


def test_no_permission(tmp_path: Path) -> None:
    """A file without read permission is set aside by name; a folder without it is an error. Run as another user, since root may read all."""
    image_folder(tmp_path / "raw", classes=1, each=3)
    (tmp_path / "raw" / "class_0" / "0001.jpg").chmod(0)
    program = (
        "import os; from penstock.ingest.convert import convert; import penstock.ingest.part\n"
        "os.setgid(65534); os.setuid(65534)\n"
        f"r = convert({str(tmp_path / 'raw')!r}, {str(tmp_path / 'out')!r}, workers=0, max_bad=1)\n"
        "print(r.rows_out, r.rows_set_aside)"
    )
    if os.geteuid() == 0:
        for folder in (tmp_path, *(folder for folder in tmp_path.parents if "pytest-of" in str(folder))):
            folder.chmod(0o777)
        done = subprocess.run([os.sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)  # type: ignore[attr-defined]
        assert done.stdout.split() == ["2", "1"], done.stderr
        assert "Permission denied" in quarantine(tmp_path / "out")[0]["reason"]
        (tmp_path / "raw" / "class_0").chmod(0)
        done = subprocess.run([os.sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)  # type: ignore[attr-defined]
        assert "cannot list the folder: permission denied" in done.stderr


KINDS = ("npy", "npz", "arrow", "parquet", "tar", "jsonl", "csv")


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's files are needed, which only root can make")
def test_an_unreadable_source_is_told_as_that(tmp_path: Path) -> None:
    """A file that may not be read is told as such and by its path, once, whatever its kind; not as damaged, and without a hint at its contents."""
    for kind in KINDS:
        (tmp_path / f"a.{kind}").write_bytes(b"whatever")
        (tmp_path / f"a.{kind}").chmod(0)
    for folder in (tmp_path, *(folder for folder in tmp_path.parents if "pytest-of" in str(folder))):
        folder.chmod(0o777)
    program = (
        "import os; from penstock.errors import PenstockError; from penstock.ingest.convert import convert; import penstock.ingest.part\n"
        "os.setgid(65534); os.setuid(65534)\n"
        f"for kind in {KINDS!r}:\n"
        "    try:\n"
        f"        convert({str(tmp_path)!r} + '/a.' + kind, {str(tmp_path / 'out')!r} + kind, workers=0)\n"
        "    except PenstockError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    told = done.stdout.splitlines()
    assert len(told) == len(KINDS), done.stderr
    for kind, line in zip(KINDS, told, strict=True):
        assert line.count(str(tmp_path / f"a.{kind}")) == 1
        assert "permission denied" in line
        assert not any(word in line for word in ("damaged", "members are named"))


def bad_images(root: Path) -> dict[str, str]:
    """Write an image folder with one of each kind of damage; return the expected reason of each."""
    image_folder(root, classes=2, each=4)
    good = jpeg(99, height=160, width=160)
    folder = root / "class_0"
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("I am no image at all")
    (folder / "cut.png").write_bytes(picture("png")[:-300])
    (folder / "cut.webp").write_bytes(picture("webp")[:-40])
    (folder / "flip.bmp").write_bytes(picture("bmp"))
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    return {
        "cut.jpg": "damaged",
        "empty.jpg": "0 bytes",
        "text.jpg": "not an image",
        "cut.png": "does not decode",
        "cut.webp": "could not create decoder",
        "flip.bmp": "--reencode",
        "gone.jpg": "cannot be read",
    }


def test_bad_images_among_good_ones(tmp_path: Path) -> None:
    """Cut, empty, mislabelled and dangling images go to quarantine with a reason each; the good ones are all there."""
    reasons = bad_images(tmp_path / "raw")
    report = run(tmp_path / "raw", tmp_path / "out", max_bad=len(reasons))
    assert (report.rows_in, report.rows_out, report.rows_set_aside) == (8 + len(reasons), 8, len(reasons))
    assert len(rows_of(tmp_path / "out")) == 8
    found = {line["key"].split("/")[1]: line["reason"] for line in quarantine(tmp_path / "out")}
    assert set(found) == set(reasons)
    for name, reason in reasons.items():
        assert reason in found[name], (name, found[name])


def test_too_much_bad_publishes_nothing_and_keeps_the_job(tmp_path: Path) -> None:
    """Above max_bad the error shows first reasons and remedy, nothing is published, the quarantine is kept, and --resume --max-bad goes on."""
    reasons = bad_images(tmp_path / "raw")
    with pytest.raises(
        BadData, match=rf"7 of 15 rows cannot be read.*0\.1%.*nothing was published(.|\n)*class_0/cut\.jpg(.|\n)*--max-bad {len(reasons)}"
    ):
        run(tmp_path / "raw", tmp_path / "out")
    assert nothing_published(tmp_path / "out")
    assert len(quarantine(tmp_path / "out")) == len(reasons)
    with pytest.raises(BadData, match="more than max_bad"):
        run(tmp_path / "raw", tmp_path / "out", resume=True, max_bad=3)
    report = run(tmp_path / "raw", tmp_path / "out", resume=True, max_bad="50%")
    assert report.rows_out == 8
    assert len(quarantine(tmp_path / "out")) == len(reasons)


def test_nothing_readable_fails_whatever_max_bad_says(tmp_path: Path) -> None:
    """A source without one readable row is a mistake, not a dataset of zero rows."""
    (tmp_path / "raw" / "a").mkdir(parents=True)
    (tmp_path / "raw" / "a" / "x.jpg").write_bytes(b"no image")
    with pytest.raises(BadData, match="none of the 1 rows can be read"):
        run(tmp_path / "raw", tmp_path / "out", max_bad="100%")


def test_header_check_is_quicker_and_less_strict(tmp_path: Path) -> None:
    """With check='header' an image cut in its data passes, and one without a header does not."""
    reasons = bad_images(tmp_path / "raw")
    report = run(tmp_path / "raw", tmp_path / "out", check="header", max_bad=10)
    kept = {"cut.jpg", "cut.png"}
    assert report.rows_set_aside <= len(reasons) - len(kept)


def test_default_bound_is_a_thousandth(tmp_path: Path) -> None:
    """One bad image in 1,200 is set aside without asking; two are too many."""
    data = jpeg(0)
    (tmp_path / "raw" / "a").mkdir(parents=True)
    for i in range(1199):
        (tmp_path / "raw" / "a" / f"{i:04d}.jpg").write_bytes(data)
    (tmp_path / "raw" / "a" / "bad1.jpg").write_bytes(b"")
    assert run(tmp_path / "raw", tmp_path / "out").rows_set_aside == 1
    (tmp_path / "raw" / "a" / "bad2.jpg").write_bytes(b"")
    with pytest.raises(BadData, match="2 of 1201"):
        run(tmp_path / "raw", tmp_path / "out2")


def test_images_outside_class_folders(tmp_path: Path) -> None:
    """Loose images beside class folders have no label: refused by name."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    (tmp_path / "raw" / "loose.jpg").write_bytes(jpeg(1))
    with pytest.raises(BadRequest, match=r"1 images lie outside any class folder, the first 'loose\.jpg'"):
        run(tmp_path / "raw", tmp_path / "out")


def test_class_names_that_look_the_same(tmp_path: Path) -> None:
    """Two class folders whose names differ only in Unicode composition are refused, not merged and not doubled."""
    for name in ("caf\u00e9", "cafe\u0301"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "1.jpg").write_bytes(jpeg(1))
    with pytest.raises(BadData, match="same name"):
        run(tmp_path / "raw", tmp_path / "out")


def test_symlink_loop(tmp_path: Path) -> None:
    """A link to a folder above is refused by name instead of walked for ever; a link to another folder is followed."""
    image_folder(tmp_path / "raw", classes=1, each=2)
    image_folder(tmp_path / "far", classes=1, each=2)
    (tmp_path / "raw" / "class_1").symlink_to(tmp_path / "far" / "class_0")
    assert run(tmp_path / "raw", tmp_path / "ok").rows_out == 4
    (tmp_path / "raw" / "class_0" / "up").symlink_to(tmp_path / "raw")
    with pytest.raises(BadData, match=r"up: a symbolic link that leads back"):
        run(tmp_path / "raw", tmp_path / "out")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """An image with such a name is converted; such a class folder is refused; such a path as a value is set aside."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    folder = os.fsencode(tmp_path / "raw" / "class_0")
    (Path(os.fsdecode(folder + b"/\xff.jpg"))).write_bytes(jpeg(1))
    assert run(tmp_path / "raw", tmp_path / "a", split=["train=1"]).rows_out == 2
    report = run(tmp_path / "raw" / "class_0", tmp_path / "b", max_bad=1)
    assert (report.rows_out, report.rows_set_aside) == (1, 1)
    assert "\\xff.jpg" in quarantine(tmp_path / "b")[0]["key"]
    Path(os.fsdecode(os.fsencode(tmp_path / "raw") + b"/\xfe")).mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "raw") + b"/\xfe/1.jpg")).write_bytes(jpeg(1))
    with pytest.raises(BadData, match="not UTF-8; rename it"):
        run(tmp_path / "raw", tmp_path / "c")
