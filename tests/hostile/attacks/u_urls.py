"""U1: bundles, images and results behind URLs of a server on loopback that lies, stalls, leads elsewhere or changes."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hostile import web_server as server
from hostile.ground import OPTIONS
from hostile.harness import Attack, Outcome, Scene, Verdict, fell, held
from hostile.web_server import Odd, Request, Site

#: Deadlines of seconds instead of a minute, and files of a bundle of at most 64 MiB, so that an attack takes seconds.
PRELUDE = """
try:
    import qcam.common.web as web, qcam.runtime.fetch as fetch
    web.SILENCE, web.LISTING, fetch._LARGEST = 5.0, 20.0, 1 << 26
except (ImportError, AttributeError):
    pass
"""
#: Seconds after which a command hangs whose deadlines are so short.
_PATIENCE = 90.0
#: What a command may take, in MB, with all the packages that it loads.
_MOST = 2_500.0
#: Where the server's own redirects to another host lead to, and what must not be asked for there.
_ELSEWHERE = "elsewhere.jpg"


def _files(folder: Path, below: str) -> dict[str, bytes]:
    """Return the files of a folder as a site has them."""
    return {f"{below}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _photographs(scene: Scene) -> dict[str, bytes]:
    return {f"photos/{path.name}": path.read_bytes() for path in sorted(scene.ground.photographs.iterdir())[:3]}


def _eval(scene: Scene, bundle: object, images: object, output: object = "out") -> Outcome:
    words = (bundle, "--images", images, "--saliency", "none", "--precision", "f32", "--output", output, *OPTIONS)
    return scene.run("qcam-eval", *words, prelude=PRELUDE, most=_MOST, patience=_PATIENCE)


def _left(scene: Scene) -> str:
    """Name a file that a refused command left in its output or in the cache of bundles; empty if it left none."""
    places = (scene.work / "out", scene.work / "cache" / "bundles")
    return next((str(path.name) for place in places for path in place.rglob("*") if path.is_file()), "")


def _refused(scene: Scene, outcome: Outcome, site: Site, name: str) -> Verdict:
    """Judge a command that has to refuse what is behind a URL: one line that names the URL, and nothing half-written."""
    verdict = outcome.refused(name)
    if verdict.held and site.url not in outcome.errors[0]:
        return fell("refused, and the URL is not named")
    left = _left(scene) if verdict.held else ""
    return fell(f"refused, and {left} is left") if left else verdict


def _bundle(name: str, odd: Odd, scene: Scene) -> Verdict:
    """Answer oddly for a file of a bundle."""
    with Site(_files(scene.ground.bundle, "tiny"), {f"tiny/{name}": odd}) as site:
        outcome = _eval(scene, f"{site.url}/tiny", scene.ground.photographs)
        return _refused(scene, outcome, site, name)


def _exported_anew(scene: Scene) -> Verdict:
    """Give another bundle's file behind the manifest of the first."""
    other = (scene.ground.other_bundle / "f32.onnx").read_bytes()
    return _bundle("f32.onnx", lambda request: server.serve(request, other), scene)


def _names(scene: Scene, name: str) -> Verdict:
    """Let a manifest name a file elsewhere."""
    manifest = (scene.ground.bundle / "bundle.json").read_text(encoding="utf-8").replace('"f32.onnx"', f'"{name}"')
    return _bundle("bundle.json", lambda request: server.serve(request, manifest.encode()), scene)


def _image(odd: Odd, scene: Scene) -> Verdict:
    """Answer oddly for one photograph of three: the others are evaluated, and that one is refused by name in the results."""
    files = _photographs(scene)
    bad = sorted(files)[1]
    with Site(files, {bad: odd}) as site:
        outcome = _eval(scene, scene.ground.bundle, f"{site.url}/photos")
    if outcome.fault() or outcome.code != 0:
        return fell(outcome.fault() or f"exit {outcome.code}: one bad photograph ends the run")
    rows = pq.read_table(scene.work / "out" / "results.parquet").to_pylist()
    status = {row["image"]: row["status"] for row in rows}
    if sum(text.startswith("refused") for text in status.values()) != 1 or len(status) != 3:
        return fell("taken for a picture")
    right = status[Path(bad).name].startswith("refused")
    return held("refused in the results, by name") if right else fell("another is refused")


def _every_image(odd: Odd, scene: Scene) -> Verdict:
    """Answer oddly for all of many photographs."""
    data = next(iter(_photographs(scene).values()))
    names = [f"photos/{number:03d}.jpg" for number in range(60)]
    with Site(dict.fromkeys(names, data), dict.fromkeys(names, odd)) as site:
        outcome = _eval(scene, scene.ground.bundle, f"{site.url}/photos")
        verdict = _refused(scene, outcome, site, site.url)
    return verdict._replace(told="refused, the host named") if verdict.held else verdict


def _folder(odd: Odd, scene: Scene) -> Verdict:
    """Answer oddly for the page that lists a folder."""
    with Site(_photographs(scene), {"photos/": odd}) as site:
        outcome = _eval(scene, scene.ground.bundle, f"{site.url}/photos")
        return _refused(scene, outcome, site, "photos")


def _elsewhere(link: str, scene: Scene) -> Verdict:
    """List a photograph that lies elsewhere beside one that does not: it is never asked for, nor named in the results."""
    files = _photographs(scene)
    name = Path(sorted(files)[0]).name
    with Site({**files, _ELSEWHERE: files[sorted(files)[1]]}) as site:
        site.odd["photos/"] = server.listing(name, link.replace("SITE", site.url))
        outcome = _eval(scene, scene.ground.bundle, f"{site.url}/photos")
        if site.asked[_ELSEWHERE]:
            return fell("a file outside the folder is read")
        if outcome.code == 2:
            return _refused(scene, outcome, site, "photos")
    if outcome.fault() or outcome.code:
        return fell(outcome.fault() or f"exit {outcome.code}")
    found = set(pq.read_table(scene.work / "out" / "results.parquet")["image"].to_pylist())
    return held("passed over, never asked for") if found == {name} else fell("taken for a photograph")


def _archive(name: str, odd: Odd, scene: Scene) -> Verdict:
    """Answer oddly for a tar or Parquet file of photographs."""
    with Site({name: _packed(name, list(_photographs(scene).values()))}, {name: odd}) as site:
        outcome = _eval(scene, scene.ground.bundle, f"{site.url}/{name}")
        return _refused(scene, outcome, site, name)


def _packed(name: str, photographs: list[bytes]) -> bytes:
    if name.endswith(".tar"):
        path = io.BytesIO()
        with tarfile.open(fileobj=path, mode="w") as archive:
            for number, data in enumerate(photographs):
                member = tarfile.TarInfo(f"{number}.jpg")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return path.getvalue()
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array(photographs, pa.binary()), "label": list(range(len(photographs)))}), sink)
    return sink.getvalue()


def _judged_change(scene: Scene, outcome: Outcome, good: set[str]) -> Verdict:
    """Judge a run whose images changed: no figure is of another content than the first one."""
    if outcome.fault():
        return fell(outcome.fault())
    path = scene.work / "out" / "results.parquet"
    rows = pq.read_table(path).to_pylist() if path.exists() else []
    if any(row["status"] == "ok" and row["image_sha256"] not in good for row in rows):
        return fell("another content is used")
    if outcome.code == 0:
        if any(row["status"].startswith("refused") for row in rows):
            return held("refused in the results, by name")
        return fell("exit 0, as if nothing were wrong")
    return outcome.refused("chang", "could not be read when", "was read when")


def _image_changes(scene: Scene, times: int, first: Odd | None = None) -> Verdict:
    """Give another photograph under the same name after so many requests; or something odd before."""
    files = _photographs(scene)
    names = sorted(files)
    other = (sorted(scene.ground.other_photographs.iterdir())[0]).read_bytes()
    good = {hashlib.sha256(data).hexdigest() for data in files.values()}
    change = server.then(times, other)

    def odd(request: Request) -> None:
        if first is not None and request.site.asked[request.name] <= times:
            first(request)
        else:
            change(request)

    with Site(files, {names[1]: odd}) as site:
        verdict = _judged_change(scene, _eval(scene, scene.ground.bundle, f"{site.url}/photos"), good)
    return verdict._replace(told="refused, the change named") if verdict.held else verdict


def _archive_changes(name: str, times: int, scene: Scene) -> Verdict:
    """Give an archive of the same photographs in another order after so many requests: labels would be others'."""
    photographs = list(_photographs(scene).values())
    with Site({name: _packed(name, photographs)}) as site:
        site.odd[name] = server.then(times, _packed(name, photographs[::-1]))
        outcome = _eval(scene, scene.ground.bundle, f"{site.url}/{name}")
    path = scene.work / "out" / "results.parquet"
    if outcome.code == 2 and not path.exists():
        verdict = outcome.refused("changed")
        return held("refused, the change named") if verdict.held else fell(outcome.fault() or "the change is not named")
    if outcome.fault() or outcome.code not in (0, 2):
        return fell(outcome.fault() or f"exit {outcome.code}")
    rows = pq.read_table(path).to_pylist()
    right = [hashlib.sha256(data).hexdigest() for data in photographs]
    place = {image: number for number, image in enumerate(sorted({row["image"] for row in rows}))}
    if any(row["status"] == "ok" and row["image_sha256"] != right[place[row["image"]]] for row in rows):
        return fell("one photograph is taken under another's name")
    named = "changed" in "".join([*outcome.errors, *(row["status"] for row in rows)])
    return held("refused, the change named") if named else fell(f"exit {outcome.code}, and the change is not named")


def _results(scene: Scene) -> Verdict:
    """Write results to a web server, which has its own idea of what was there before."""
    with Site({"out/run.json": b"{}"}, {"out/run.json": server.endless}) as site:
        outcome = _eval(scene, scene.ground.bundle, scene.ground.photographs, f"{site.url}/out")
        verdict = _refused(scene, outcome, site, "out")
        return fell("the server is asked for what it holds") if verdict.held and site.asked else verdict


_LENGTHS: list[tuple[str, Odd]] = [
    ("Content-Length too long", server.broken),
    ("Content-Length too short", server.short),
    ("no Content-Length, cut off", server.lengthless),
    ("Content-Length negative", server.stated(-5)),
    ("Content-Length of 10^17, no end", server.stated(10**17)),
    ("no end", server.endless),
    ("a byte a second", server.slow),
    ("half, then silence", server.stopped),
    ("no answer", server.silent),
    ("no HTTP, but ESC", server.chatter),
    ("gzip, 1 GB of zeros", server.bomb),
    ("404", server.failing(404)),
    ("500", server.failing(500)),
]
_REDIRECTS: list[tuple[str, Odd]] = [
    ("redirected in a circle", server.redirected("/tiny/bundle.json")),
    ("redirected to file://", server.redirected("file:///etc/hostname")),
    ("redirected to another host", server.redirected("http://localhost:9/bundle.json")),
    ("redirected to /etc/hostname", server.redirected("/etc/hostname")),
]
_LINKS = [
    ("../", f"../{_ELSEWHERE}"),
    ("%2e%2e/", f"%2e%2e/{_ELSEWHERE}"),
    ("..%2f", f"..%2f{_ELSEWHERE}"),
    ("/", f"/{_ELSEWHERE}"),
    ("the whole address", f"SITE/{_ELSEWHERE}"),
    ("another host", "http://localhost:9/elsewhere.jpg"),
    ("file://", "file:///etc/hostname.jpg"),
    ("ESC and newline in its name", "x%1b[31m%0aerror: no.jpg"),
    ("NUL in its name", "x%00.jpg"),
]
_PAGES: list[tuple[str, Odd]] = [
    ("no end", server.endless),
    ("a byte a second", server.slow),
    ("no answer", server.silent),
    ("gzip, 1 GB of zeros", server.bomb),
    ("500", server.failing(500)),
    ("redirected to another host", server.redirected("http://localhost:9/photos/")),
]


def _slow_page(request: Request) -> None:
    request.head(200, Content_Length=1000, Content_Type="text/html")
    request.endless(b"<", 1.0)


def _endless_page(request: Request) -> None:
    request.head(200, Content_Length=10**12, Content_Type="text/html")
    request.endless(b'<a href="x.jpg">' * 4096, 0.0)


def _endless_folders(scene: Scene) -> Verdict:
    """List a folder in every folder."""
    with Site() as site:

        def nested(request: Request) -> None:
            site.odd[f"{request.name}a/"] = nested
            server.listing("a/")(request)

        site.odd["photos/"] = nested
        return _refused(scene, _eval(scene, scene.ground.bundle, f"{site.url}/photos"), site, "photos")


_ODD_PAGES = {"no end": _endless_page, "a byte a second": _slow_page}
_RUNS: list[tuple[str, Callable[[Scene], Verdict]]] = [
    *((f"bundle.json: {kind}", partial(_bundle, "bundle.json", odd)) for kind, odd in (*_LENGTHS, *_REDIRECTS)),
    *((f"f32.onnx: {kind}", partial(_bundle, "f32.onnx", odd)) for kind, odd in _LENGTHS),
    ("f32.onnx: redirected to another host", partial(_bundle, "f32.onnx", server.redirected("http://localhost:9/f32.onnx"))),
    ("f32.onnx: exported anew behind the manifest", _exported_anew),
    ("bundle.json names ../f32.onnx", partial(_names, name="../f32.onnx")),
    ("bundle.json names /etc/hostname", partial(_names, name="/etc/hostname")),
    # A photograph that is said to be half as long cannot be told from one that is: it is one that is cut short.
    *((f"a photograph: {kind}", partial(_image, odd)) for kind, odd in _LENGTHS if "too short" not in kind),
    ("a photograph: redirected to another host", partial(_image, server.redirected("http://localhost:9/x.jpg"))),
    ("60 photographs: no answer", partial(_every_image, server.silent)),
    ("60 photographs: a byte a second", partial(_every_image, server.slow)),
    ("a photograph: another one after it was fingerprinted", partial(_image_changes, times=1)),
    ("a photograph: 500 when it is fingerprinted, then another", partial(_image_changes, times=1, first=server.failing(500))),
    *((f"a folder's page: {kind}", partial(_folder, _ODD_PAGES.get(kind, odd))) for kind, odd in _PAGES),
    ("a folder in a folder in a folder without an end", _endless_folders),
    *((f"a folder lists a photograph elsewhere: {kind}", partial(_elsewhere, link)) for kind, link in _LINKS),
    *(
        (f"{name}: {kind}", partial(_archive, name, odd))
        for name in ("set.tar", "set.parquet")
        for kind, odd in (*_PAGES, ("another part than was asked for", server.beside))
    ),
    *(
        (f"{name}: another order after {times} requests", partial(_archive_changes, name, times))
        for name in ("set.tar", "set.parquet")
        for times in (2, 3, 4, 6)
    ),
    ("--output behind http://, which has an endless run.json", _results),
]
ATTACKS = [Attack(f"U1.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]
