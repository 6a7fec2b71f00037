"""Sources in which a row is a file: labels from folders, columns from suffixes, odd names, and chunks of bounded size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from contracts.raw import image_folder, jpeg, quarantine, rows_of, run
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.errors import BadData, BadRequest
from penstock.ingest import sources_files
from penstock.ingest.assign import Spans
from penstock.ingest.locate import locate
from penstock.ingest.plan import open_source
from penstock.ingest.source import Chunk

Names = st.text(st.characters(blacklist_characters="/\0.", blacklist_categories=("Cs",)), min_size=1, max_size=5)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=20)
@given(st.sets(Names, min_size=1, max_size=6))
def test_any_class_name_is_kept(tmp_path_factory: pytest.TempPathFactory, classes: set[str]) -> None:
    """Whatever letters a class folder's name has, it is in the metadata, and each row's label leads to it."""
    root = tmp_path_factory.mktemp("any")
    try:
        for name in classes:
            (root / "raw" / name).mkdir(parents=True)
            (root / "raw" / name / f"{name}.jpg").write_bytes(jpeg(len(name)))
        run(root / "raw", root / "out", columns=["label", "path"])
    except (BadData, OSError) as error:  # two that look the same, or a name that the file system refuses
        assert isinstance(error, OSError) or "same name" in str(error)  # noqa: PT017 - as said
        return
    names = ps.Dataset(str(root / "out")).metadata["class_names"]["label"]
    assert names == sorted(classes, key=str.encode)
    for row in rows_of(root / "out"):
        assert row["path"] == f"{names[row['label']]}/{names[row['label']]}.jpg"


def test_path_that_is_not_utf8_is_one_row(tmp_path: Path) -> None:
    """An image folder whose paths are asked for sets aside the file whose name is no text, and keeps the others."""
    image_folder(tmp_path / "raw", classes=1, each=2)
    Path(os.fsdecode(os.fsencode(tmp_path / "raw" / "class_0") + b"/\xff.jpg")).write_bytes(jpeg(9))
    report = run(tmp_path / "raw", tmp_path / "out", columns=["image", "path"], max_bad=1)
    assert (report.rows_out, report.rows_set_aside) == (2, 1)
    (line,) = quarantine(tmp_path / "out")
    assert line["key"] == "class_0/\\xff.jpg"
    assert line["reason"].startswith("path: ")
    assert run(tmp_path / "raw", tmp_path / "all").rows_out == 3


@pytest.mark.parametrize(
    ("files", "fields"),
    [
        (["a.txt", "b.MD", "c.text"], {"text": ps.Text(), "path": ps.Text()}),
        (["a.json"], {"json": ps.Json(), "path": ps.Text()}),
        (["a.wav", "b.mp3"], {"audio": ps.Audio(), "path": ps.Text()}),
        (["a.bin", "b.txt"], {"data": ps.Bytes(), "path": ps.Text()}),
        (["noext"], {"data": ps.Bytes(), "path": ps.Text()}),
        (["a.png", "b.webp"], {"image": ps.Image(), "path": ps.Text()}),
    ],
)
def test_content_is_named_after_what_it_is(tmp_path: Path, files: list[str], fields: dict[str, ps.Field]) -> None:
    """When all files agree the column is what they are; otherwise, and for suffixes nobody knows, it is `data` of bytes."""
    (tmp_path / "raw").mkdir()
    for name in files:
        (tmp_path / "raw" / name).write_bytes(b"[1]")
    found = locate(f"{tmp_path}/raw/*", "files")
    assert open_source("files", found.files).describe(None).schema == fields


def test_loose_images_beside_folders(tmp_path: Path) -> None:
    """An image without a class folder is refused with the first name, and `--from files` takes all of them without labels."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    (tmp_path / "raw" / "loose.png").write_bytes(jpeg(1))
    with pytest.raises(BadRequest, match=r"1 images lie outside any class folder, the first 'loose\.png'.*--from files"):
        run(tmp_path / "raw", tmp_path / "out")
    assert [row["path"] for row in (run(tmp_path / "raw", tmp_path / "out", kind="files"), rows_of(tmp_path / "out"))[1]] == [
        "class_0/0000.jpg",
        "loose.png",
    ]


def test_chunks_are_bounded_by_bytes_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk ends before it would pass the bound, whichever comes first; one file that is larger is a chunk of its own."""
    (tmp_path / "raw").mkdir()
    for number, size in enumerate((10, 10, 10, 50, 10, 10)):
        (tmp_path / "raw" / f"{number}.bin").write_bytes(bytes(size))
    source = open_source("files", locate(f"{tmp_path}/raw/*", "files").files)
    described = source.describe(None)
    monkeypatch.setattr(sources_files, "CHUNK_BYTES", 25)
    for rows, wanted in ((10, [2, 1, 1, 2]), (1, [1] * 6)):
        monkeypatch.setattr(sources_files, "CHUNK_ROWS", rows)
        chunks = list(source.read(Spans.from_json([[0, 0, 6, 0]]), described))
        assert [len(chunk.rows) for chunk in chunks if isinstance(chunk, Chunk)] == wanted


def test_file_that_goes_while_reading(tmp_path: Path) -> None:
    """A file that was there when the plan was made and is gone when it is read costs its own row, with the system's words."""
    image_folder(tmp_path / "raw", classes=1, each=3)
    source = open_source("images", locate(str(tmp_path / "raw")).files)
    described = source.describe(None)
    (tmp_path / "raw" / "class_0" / "0001.jpg").unlink()
    chunk, *rest = sorted(source.read(source.pieces(described).spans.merged(), described), key=lambda one: isinstance(one, Chunk))
    assert str(chunk) == "class_0/0001.jpg: cannot be read: No such file or directory"
    assert [one.keys for one in rest if isinstance(one, Chunk)] == [["class_0/0000.jpg", "class_0/0002.jpg"]]
