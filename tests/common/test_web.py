"""What a web server sends: taken when it is right, else refused in one line; never waited for without an end."""

from __future__ import annotations

import gc
import pickle
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hostile import web_server as server
from hostile.web_server import Site

from qcam.common import storage, web
from qcam.common.errors import QcamError
from qcam.common.storage import below, is_file, open_binary, open_location, places_below, read_pieces, shown, state_of

DATA = bytes(range(256)) * 40


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server that no other test has known."""
    monkeypatch.setattr(web, "_silence", web._Silence())
    with Site({"a.bin": DATA, "empty": b"", "set/b c#ü%.jpg": b"1", "set/deep/x.jpg": b"2", "set/.hidden": b""}) as made:
        yield made


def read(site: Site, name: str, *part: int) -> bytes:
    return b"".join(read_pieces(open_location(f"{site.url}/{name}"), *part))


# ---- what is right


def test_files_are_read_whole_and_in_parts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_PIECE", 1000)
    assert read(site, "a.bin") == DATA
    assert site.asked["a.bin"] == 1
    assert read(site, "a.bin", 300, 2500) == DATA[300:2800]
    assert read(site, "empty") == b""
    assert read(site, "empty", 0, 0) == b""
    with pytest.raises(OSError, match=f"the file ends at byte {len(DATA)}, before byte {len(DATA) + 5}"):
        read(site, "a.bin", 5, len(DATA))
    with pytest.raises(OSError, match="no such file"):
        read(site, "absent")


def test_chunks_are_read_to_their_end(site: Site) -> None:
    def chunked(request: server.Request) -> None:
        request.head(200, Transfer_Encoding="chunked")
        for start in range(0, len(DATA), 999):
            piece = DATA[start : start + 999]
            request.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        request.send(b"0\r\n\r\n")

    site.odd["a.bin"] = chunked
    assert read(site, "a.bin") == DATA


def test_a_server_without_ranges_gives_whole_files_and_beginnings(site: Site) -> None:
    site.odd["a.bin"] = server.rangeless
    assert read(site, "a.bin") == DATA
    assert read(site, "a.bin", 0, 64) == DATA[:64]
    with pytest.raises(OSError, match="the server does not keep to byte ranges"):
        read(site, "a.bin", 64, 64)
    with pytest.raises(OSError, match="by which archives are read; fetch it, and give the file"):
        open_binary(open_location(f"{site.url}/a.bin"))


def test_a_file_is_read_at_any_place(site: Site) -> None:
    with open_binary(open_location(f"{site.url}/a.bin")) as stream:
        assert stream.seek(0, 2) == len(DATA)
        assert stream.read() == b""
        stream.seek(-10, 2)
        assert stream.read(20) == DATA[-10:]
        assert stream.seek(300) == stream.tell() == 300
        assert stream.read(50) == DATA[300:350]
    with open_binary(open_location(f"{site.url}/empty")) as stream:
        assert stream.read() == b""


def test_folders_are_listed_at_any_depth_under_the_names_of_their_files(site: Site) -> None:
    found = places_below(open_location(f"{site.url}/set"))
    assert list(found) == [".hidden", "b c#ü%.jpg", "deep/x.jpg"]
    assert [b"".join(read_pieces(place)) for place in found.values()] == [b"", b"1", b"2"]
    assert shown(found["deep/x.jpg"]) == f"{site.url}/set/deep/x.jpg"
    again = pickle.loads(pickle.dumps(found["b c#ü%.jpg"]))
    assert b"".join(read_pieces(again)) == b"1"
    assert places_below(open_location(f"{site.url}/nowhere")) == {}
    assert places_below(open_location(f"{site.url}/a.bin")) == {}


def test_letters_that_mean_something_in_an_address_are_escaped(site: Site) -> None:
    site.files["set/100%25 #1?.bin"] = DATA
    place = below(open_location(f"{site.url}/set"), "100%25 #1?.bin")  # type: ignore[arg-type]
    assert b"".join(read_pieces(place)) == DATA


def test_files_are_told_from_folders(site: Site) -> None:
    site.files["x.tar/inner"] = b""
    wanted = {"a.bin": True, "empty": True, "x.tar": False, "absent": False}
    assert {name: is_file(open_location(f"{site.url}/{name}")) for name in wanted} == wanted


def test_links_that_lead_elsewhere_are_passed_over(site: Site) -> None:
    site.odd["set/"] = server.listing(
        "../a.bin", "/a.bin", "http://example.org/x.jpg", f"{site.url}/set/here.jpg", "/set/there.jpg", "?C=M", "#top", "",
        "javascript:alert(1)", "deep/x.jpg", "file:///etc/passwd", "here.jpg", "http://[", "x.jpg?query", "./dot.jpg",
    )  # fmt: skip
    assert list(places_below(open_location(f"{site.url}/set"))) == ["dot.jpg", "here.jpg", "there.jpg"]


def test_redirects_on_the_same_host_are_followed(site: Site) -> None:
    site.odd["moved"] = server.redirected("/a.bin")
    assert read(site, "moved") == DATA
    assert read(site, "moved", 10, 5) == DATA[10:15]


# ---- what is not


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (server.broken, "the connection broke off before the end"),
        (server.lengthless, "the server says neither how long it is nor where it ends"),
        (server.stated(-5), "the server's answer is no HTTP"),
        (server.stated("12abc"), "the server's answer is no HTTP"),
        (server.chatter, "the server's answer is no HTTP"),
        (server.squeezed, "the server answers with Content-Encoding gzip, which was not asked for"),
        (server.bomb, "the server answers with Content-Encoding gzip, which was not asked for"),
        (server.failing(500), "the server answers 500"),
        (server.failing(403), "the server answers 403"),
        (server.failing(204), "the server answers 204"),
        (server.failing(410), "no such file"),
        (server.redirected("/a.bin"), "more than 5 redirects"),
        (server.redirected(""), "more than 5 redirects"),
        (server.redirected("file:///etc/passwd"), "it is redirected to file://, another place"),
        (server.redirected("http://169.254.169.254/latest?token=hush"), "it is redirected to http://169.254.169.254, another"),
        (server.redirected("//other.example/x"), "it is redirected to http://other.example, another place"),
        (server.redirected("/etc/passwd"), "no such file"),
        (server.beside, "the server answers with other bytes than those that were asked for"),
        (server.silent, "no answer within 1 s"),
        (server.stopped, "nothing came for 1 s, after 5,120 bytes"),
    ],
)
def test_an_answer_that_is_none_is_one_line(site: Site, odd: server.Odd, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if odd in (server.silent, server.stopped):
        monkeypatch.setattr(web, "SILENCE", 1.0)
    site.odd["a.bin"] = odd
    begun = time.monotonic()
    with pytest.raises(OSError, match=told) as raised:
        read(site, "a.bin")
    assert str(raised.value).isprintable()
    assert "hush" not in str(raised.value)
    assert time.monotonic() - begun < 30


def test_a_redirect_to_another_port_of_the_host_is_another_place(site: Site) -> None:
    with Site({"a.bin": b"other"}) as other:
        site.odd["a.bin"] = server.redirected(f"{other.url}/a.bin")
        with pytest.raises(OSError, match="another place"):
            read(site, "a.bin")
        assert not other.asked


def test_what_comes_too_slowly_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SILENCE", 2.5)
    site.odd["a.bin"] = server.slow
    begun = time.monotonic()
    with pytest.raises(OSError, match=r"[123] bytes in \d+ s: it comes too slowly"):
        read(site, "a.bin")
    assert time.monotonic() - begun < 10


def test_what_has_no_end_takes_no_more_memory_than_is_asked_for(site: Site) -> None:
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for odd in (server.endless, server.stated(10**17)):
        site.odd["a.bin"] = odd
        place = open_location(f"{site.url}/a.bin")
        pieces = read_pieces(place)
        assert len(next(pieces)) == storage._PIECE
        pieces.close()
        assert len(b"".join(read_pieces(place, 0, 1000))) == 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


@pytest.mark.parametrize(
    ("about", "sent"),
    [
        ("bytes 5-14/10240", 10),
        ("bytes 0-99/50", 100),
        ("bytes 0-9/10240", 10),
        ("bytes 0-99/10240", 20),
        ("bytes 0-300/10240", 301),
        ("0-99", 100),
        ("bytes 99-0/10240", 0),
        ("", 100),
    ],
)
def test_a_part_that_is_not_the_one_asked_for_is_refused(site: Site, about: str, sent: int) -> None:
    def odd(request: server.Request) -> None:
        request.head(206, Content_Length=sent, Content_Range=about)
        request.send(bytes(sent))

    site.odd["a.bin"] = odd
    with pytest.raises(OSError, match=r"contradicts itself|other bytes than|keep to byte ranges"):
        read(site, "a.bin", 0, 100)


def test_a_file_that_changes_after_it_was_opened_is_not_read_on(site: Site) -> None:
    place = open_location(f"{site.url}/a.bin")
    with open_binary(place) as stream:
        state = state_of(stream)
        assert stream.read(10) == DATA[:10]
        assert b"".join(read_pieces(place, 0, 5, state)) == DATA[:5]
        site.files["a.bin"] = DATA[::-1]
        stream.raw.seek(100)  # type: ignore[attr-defined]
        with pytest.raises(OSError, match="it has changed since it was listed"):
            stream.raw.read(10)  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="it has changed since it was listed"):
        b"".join(read_pieces(place, 0, 5, state))
    with pytest.raises(OSError, match="it has changed since it was listed"):
        open_binary(place, state)
    assert state_of(open_binary(place)) != state


@pytest.mark.parametrize("link", ["%2e%2e", "%2e%2e/", "a%2fb.jpg", "%2fetc%2fx.jpg", "x%00.jpg", "x%1b[31m.jpg", "x%0a.jpg"])
def test_names_that_can_be_none_of_a_file_are_refused(site: Site, link: str) -> None:
    site.odd["set/"] = server.listing("b.jpg", link)
    with pytest.raises(OSError, match="which can be no name of a file") as raised:
        places_below(open_location(f"{site.url}/set"))
    assert str(raised.value).isprintable()


def test_listings_have_an_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    place = open_location(f"{site.url}/set")
    site.odd |= {"set/" + "again/" * depth: server.listing("again/") for depth in range(40)}
    with pytest.raises(OSError, match="more than 32 folders deep"):
        places_below(place)
    site.odd["set/"] = server.listing(*(f"{number}/" for number in range(30)))
    site.odd |= {f"set/{number}/": server.listing() for number in range(30)}
    monkeypatch.setattr(web, "FOLDERS", 20)
    with pytest.raises(OSError, match="more than 20 folders"):
        places_below(place)
    monkeypatch.setattr(web, "LISTING", 0.0)
    with pytest.raises(OSError, match="listing takes more than 0 s"):
        places_below(place)
    monkeypatch.undo()
    monkeypatch.setattr(web, "FILES", 5)
    site.odd["set/"] = server.listing(*(f"{number}.jpg" for number in range(6)))
    with pytest.raises(OSError, match="more than 5 files"):
        places_below(place)
    monkeypatch.setattr(web, "PAGE", 1 << 20)
    site.odd["set/"] = lambda request: (
        request.head(200, Content_Type="text/html", Transfer_Encoding="chunked"),
        request.endless(b"%x\r\n%s\r\n" % (1 << 16, bytes(1 << 16)), 0.0),
    )
    with pytest.raises(OSError, match="its page has more than 1 MiB"):
        places_below(place)


def test_a_folder_that_is_listed_and_not_there_is_named(site: Site) -> None:
    site.odd["set/"] = server.listing("b.jpg", "gone/")
    with pytest.raises(OSError, match="gone/ is listed and not there"):
        places_below(open_location(f"{site.url}/set"))


@pytest.mark.parametrize("text", ["<a " * 500_000, "<a href=" * 200_000, "<a '" + "<" * 4_000_000, "<a \n" + " href" * 800_000])
def test_pages_cost_time_by_their_length_alone(text: str) -> None:
    begun = time.monotonic()
    list(web._links(text))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (server.silent, "no answer"),
        (server.slow, "too slowly|nothing came|no answer"),
        (server.stopped, "nothing came|no answer"),
    ],
)
def test_a_host_that_never_answers_is_not_asked_for_ever(
    site: Site, monkeypatch: pytest.MonkeyPatch, odd: server.Odd, told: str
) -> None:
    site.odd["a.bin"] = odd

    def unanswered(times: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(web, "SILENCE", 0.2)
            for _ in range(times):
                with pytest.raises(OSError, match=told):
                    read(site, "a.bin")

    unanswered(web.IN_A_ROW - 1)
    assert read(site, "empty") == b""  # an answer: it begins anew
    unanswered(web.IN_A_ROW)
    with pytest.raises(QcamError, match=f"left {web.IN_A_ROW} requests in a row without an answer in time; try again when it"):
        read(site, "empty")
    ((host, (count, last)),) = web._silence._hosts.items()
    web._silence._hosts[host] = count, last - web.SILENCE - 1
    assert read(site, "empty") == b""


def test_heads_between_are_no_answers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image of an archive is opened, which asks for a byte, and then read."""

    def stalls(request: server.Request) -> None:
        asked = request.headers["Range"]
        if asked == "bytes=0-0":
            server.serve(request, DATA)
            return
        start, stop = map(int, asked.removeprefix("bytes=").split("-"))
        told = {"Content_Range": f"bytes {start}-{stop}/{len(DATA)}", "ETag": server.tag(DATA)}
        request.head(206, Content_Length=stop - start + 1, **told)
        request.site.over.wait()

    site.odd["a.bin"] = stalls
    monkeypatch.setattr(web, "SILENCE", 0.5)
    for _ in range(web.IN_A_ROW):
        with pytest.raises(OSError, match=r"nothing came|no answer"):
            open_binary(open_location(f"{site.url}/a.bin")).read()
    with pytest.raises(QcamError, match="requests in a row without an answer in time"):
        open_binary(open_location(f"{site.url}/a.bin"))


def test_a_host_that_is_not_there_is_one_line() -> None:
    with Site() as gone:
        pass
    with pytest.raises(OSError, match=r".") as raised:
        read(gone, "a.bin")
    assert "\n" not in str(raised.value)
