"""Bytes that come as a tar file of images: listed without unpacking, every image read at its place, or refused by name."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

from fuzz.harness import Broken, scratch
from fuzz.reader import Reader, with_decisions
from qcam.images.decoding import decode
from qcam.images.labels import label_images
from qcam.images.listing import find_images

COVERED = ("qcam.images.archives", "qcam.images.listing", "qcam.images.sources", "qcam.images.beside")
_CLASSES = ("tench", "goldfish", "3")
_DECODED = 4


def one(data: bytes) -> None:
    """List one tar file, decode its first images, and give them their classes."""
    reader = Reader(data)
    mend = reader.yes()
    archive = reader.rest()
    if mend:
        archive = with_checksums(archive)
    path = scratch() / "images.tar"
    path.write_bytes(archive)
    images = find_images(path)
    names = [image.name for image in images]
    if len(set(names)) != len(names):
        raise Broken("names are unique in an image set")
    for name in names:
        name.encode()  # one that is no UTF-8 could be written to no result
        if ".." in name.split("/") or name.startswith("/"):
            raise Broken("a name leads nowhere else", name)
    for image in images[:_DECODED]:
        decode(image.path)
    label_images(images, _CLASSES, None)


def with_checksums(archive: bytes) -> bytes:
    """Make the checksum of every header of a tar file right, so that what is changed in them is read."""
    blocks = bytearray(archive)
    for place in range(0, len(blocks) - 511, 512):
        if blocks[place + 257 : place + 262] == b"ustar":
            blocks[place + 148 : place + 156] = b" " * 8
            blocks[place + 148 : place + 156] = b"%06o\0 " % sum(blocks[place : place + 512])
    return bytes(blocks)


def seeds() -> Iterator[bytes]:
    """Yield tar files as WebDataset writes them, and with everything that tar can do."""
    pixel = b"P6 1 1 255\n\1\2\3"
    plain = [("a.jpg", pixel), ("a.cls", b"1"), ("b/c.ppm", pixel), ("b/c.cls", b"tench"), ("d", pixel), ("e.txt", b"text")]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        yield with_decisions(_written(plain, form), 1)
        yield with_decisions(
            _written(
                [("n" * 90 + "/" + "n" * 60 + ".png", pixel), ("é.jpg", pixel), ("../x.jpg", pixel), ("/y.jpg", pixel)], form
            ),
            1,
        )
    odd = io.BytesIO()
    with tarfile.open(fileobj=odd, mode="w") as archive:
        for name, kind in (
            ("a.jpg", tarfile.SYMTYPE),
            ("b.jpg", tarfile.LNKTYPE),
            ("c.jpg", tarfile.CHRTYPE),
            ("d.jpg", tarfile.DIRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "e.jpg"
            archive.addfile(member)
    yield with_decisions(odd.getvalue(), 1)


def _written(files: list[tuple[str, bytes]], form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue().rstrip(b"\0") + bytes(1024 - len(buffer.getvalue().rstrip(b"\0")) % 512)
