"""The header walk finds what tarfile finds, and refuses what a dataset must not hold."""

from __future__ import annotations

import gzip
import io
import tarfile
from contextlib import suppress

import pytest
from contracts.tars import pairs, pokes, tar_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BadData
from penstock.shards.tarscan import Member, members

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
NAME = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda t: t not in {".", ".."})
PATHS = st.lists(NAME, min_size=1, max_size=6).map("/".join)


def by_tarfile(data: bytes) -> list[Member]:
    """Return what the standard library says."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [Member(info.name, info.offset_data, info.size) for info in tar if info.isreg()]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(PATHS, st.binary(max_size=1500)), max_size=6), st.sampled_from(FORMATS[1:]))
def test_it_finds_what_tarfile_finds(entries: list[tuple[str, bytes]], kind: int) -> None:
    """Names of any length and script, and places, are tarfile's, for GNU and pax headers."""
    data = tar_bytes(entries, kind)
    assert list(members(data)) == by_tarfile(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_long_names_and_folders(kind: int) -> None:
    """A name split over ustar's two places is joined, and folders are passed over."""
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    data = tar_bytes([folder, ("d" * 90 + "/" + "e" * 60 + "/000001.txt", b"hello"), ("é.txt", b"x")], kind)
    found = list(members(data))
    assert found == by_tarfile(data)
    assert [data[m.start : m.start + m.size_bytes] for m in found] == [b"hello", b"x"]


def test_sizes_and_names_from_pax_headers() -> None:
    """A pax header's size and path win over the member's own header, and a global one over neither."""
    info = tarfile.TarInfo("short.txt")
    info.pax_headers = {"path": "other/name.txt", "comment": "ü" * 300}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "for all"}) as tar:
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert [(m.name, m.size_bytes) for m in members(stream.getvalue())] == [("other/name.txt", 3)]


def test_sizes_in_base_256() -> None:
    """GNU's binary form of a size is read."""
    data = tar_bytes([("a.txt", b"x" * 700)])
    poked = pokes(data, [(124, b"\x80" + (700).to_bytes(11, "big"))], header=0)
    assert list(members(poked)) == by_tarfile(data)


def special(kind: bytes) -> tarfile.TarInfo:
    """Return a member of another type than a file."""
    info = tarfile.TarInfo("odd.jpg")
    info.type = kind
    info.linkname = "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.FIFOTYPE, "a named pipe"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (b"Z", "of unknown type b'Z'"),
    ],
)
def test_members_that_are_no_files_are_refused(kind: bytes, words: str) -> None:
    """Links, devices, sparse and unknown members are named and refused."""
    with pytest.raises(BadData, match=f"'odd.jpg' is {words}"):
        list(members(tar_bytes([*pairs(1), special(kind)])))


def test_a_sparse_member_of_a_pax_tar_is_refused() -> None:
    """Sparse files hide behind pax headers too."""
    info = tarfile.TarInfo("GNUSparseFile.0/a.bin")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.bin", "GNU.sparse.realsize": "1000000000000"}
    with pytest.raises(BadData, match="sparse"):
        list(members(tar_bytes([info], tarfile.PAX_FORMAT)))


@pytest.mark.parametrize("name", ["../a.jpg", "x/../../a.jpg", ".."])
def test_names_that_climb_out_are_refused(name: str) -> None:
    """A key that would leave its folder is refused, though nothing is extracted."""
    with pytest.raises(BadData, match=r"climbs out"):
        list(members(tar_bytes([(name, b"x")])))


def test_names_that_are_no_text_are_refused() -> None:
    """Bytes that are not UTF-8 cannot become a key."""
    with pytest.raises(BadData, match="not UTF-8"):
        list(members(pokes(tar_bytes([("a.txt", b"x")]), [(0, b"\xff\xfe.txt")], header=0)))


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"00000zzzzzz\0"])
def test_absurd_sizes_are_refused(size: bytes) -> None:
    """A size beyond the file, a negative one, and one that is no number are refused, whatever the checksum says."""
    with pytest.raises(BadData, match=r"claims|where a size belongs"):
        list(members(pokes(tar_bytes(pairs(1)), [(124, size)], header=0)))


@pytest.mark.parametrize("body", [b"999999999 path=x\n", b"no length", b"5 ab\n", b"12 size=-100\n", b"3 a\n", b"0 path=x\n"])
def test_hostile_pax_headers_are_refused(body: bytes) -> None:
    """Records that lie about their length, or sizes that are no numbers, are damage."""
    header = tarfile.TarInfo("pax")
    header.type = tarfile.XHDTYPE
    header.size = len(body)
    block = header.tobuf(tarfile.USTAR_FORMAT) + body.ljust(512, b"\0")
    with pytest.raises(BadData, match=r"damaged near|where a size belongs"):
        list(members(block + tar_bytes(pairs(1))))


def test_a_huge_extension_header_is_refused() -> None:
    """A name of megabytes is not read."""
    header = tarfile.TarInfo("name")
    header.type = tarfile.GNUTYPE_LONGNAME
    header.size = 2 << 20
    with pytest.raises(BadData, match="no honest name"):
        list(members(header.tobuf(tarfile.USTAR_FORMAT) + b"a" * (2 << 20) + tar_bytes(pairs(1))))


def test_a_cut_anywhere_is_noticed() -> None:
    """No prefix of a tar passes for a whole one until its end marker has begun to be whole."""
    data = tar_bytes(pairs(2))
    last = by_tarfile(data)[-1]
    end = last.start + 512
    for cut in range(0, end + 512, 64):
        with pytest.raises(BadData, match="cut short"):
            list(members(data[:cut]))
    assert len(list(members(data[: end + 512]))) == 4


def test_a_damaged_header_is_noticed() -> None:
    """A flipped bit in a header breaks its checksum."""
    data = tar_bytes(pairs(2))
    for at in (0, 100, 130, 150, 300):
        with pytest.raises(BadData, match="checksum"):
            list(members(pokes(data, [(at, bytes([data[at] ^ 1]))])))


def test_a_compressed_tar_is_named() -> None:
    """A gzipped tar gets the remedy, not a checksum error."""
    with pytest.raises(BadData, match=r"compressed with gzip.*decompress"):
        list(members(gzip.compress(tar_bytes(pairs(1)))))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_bytes_make_it_fail_otherwise(data: st.DataObject) -> None:
    """Damage anywhere gives members inside the file or a BadData, nothing else."""
    whole = tar_bytes(pairs(2), data.draw(st.sampled_from(FORMATS)))
    places = data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=12)), max_size=4))
    poked = pokes(whole, places, header=data.draw(st.sampled_from([None, 0, 1024])))
    with suppress(BadData):
        assert all(0 < m.start <= m.start + m.size_bytes <= len(poked) for m in members(poked))
