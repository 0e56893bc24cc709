"""The steps of `benchmarks/gpu.py`: what each measures, and the table that it becomes. Each runs in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcam.common import machine
from qcam.common.errors import ProviderError, QcamError
from qcam.common.norms import logit_error
from qcam.evaluate.maps.cam import enlarge
from qcam.evaluate.maps.metrics import correlation
from qcam.evaluate.results.clipping import CLIPPING
from qcam.evaluate.results.folder import IMAGES, MAPS, PICTURES, RESULTS, SUMMARY, read_arrow
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.runtime.bundle import Bundle, load_bundle, load_onnx, ordered_precisions
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed import session as deployed_session
from qcam.runtime.deployed.partition import foretell
from qcam.runtime.deployed.providers import PROVIDERS, require_provider

#: Files of a study whose every byte is a matter of figures.
_SAME = (RESULTS, MAPS, PICTURES, CLIPPING, IMAGES, SUMMARY)
#: Batches that are timed, and how often, in turns.
_BATCHES, _ROUNDS = (1, 8, 32), 7
#: Arguments of a kernel's event in ONNX Runtime's profile that placement reads; the rest only lengthens a fixture.
_KEPT = ("op_name", "provider", "input_type_shape", "output_type_shape")


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        bundles: Folders of bundles.
        count: Photographs.
        provider: Short name of the provider; CPU where this is only rehearsed.
        build: Folder for what is kept.
    """

    bundles: tuple[Path, ...]
    count: int
    provider: str
    build: Path

    def to_json(self) -> list[object]:
        """Return what tells one run from another, JSON-ready."""
        return [[folder.name for folder in self.bundles], self.count, self.provider]

    @property
    def settings(self) -> SessionSettings:
        """Return the settings of a session that may fall back: the steps tell what fell."""
        return SessionSettings(self.provider, allow_fallback=True)

    def models(self) -> Iterator[tuple[Bundle, str]]:
        """Yield every bundle with each of its precisions."""
        for folder in self.bundles:
            bundle = load_bundle(folder)
            for precision in ordered_precisions([entry.name for entry in bundle.precisions]):
                yield bundle, precision

    def images(self, bundle: Bundle, count: int | None = None) -> NDArray[np.float32]:
        """Return photographs as a bundle sees them, float32, count × channels × height × width."""
        photographs = evaluation_photographs()[: count or self.count]
        return bundle.preprocessing.normalise(np.stack(_crops(bundle, photographs)))


@dataclass(frozen=True)
class Step:
    """A step.

    Attributes:
        title: Its heading on the page.
        run: Measures; returns what is kept, JSON-ready.
        show: Makes Markdown of that.
    """

    title: str
    run: Callable[[Asked], dict[str, Any]]
    show: Callable[[dict[str, Any]], list[str]]


def why_not(provider: str) -> str:
    """Say why there is nothing to measure here; empty if there is."""
    if provider == "CPU":
        return ""
    try:
        require_provider(provider)
    except (ProviderError, QcamError) as error:
        return str(error)
    return "" if machine.has_gpu() else "this machine shows no GPU"


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


def _crops(bundle: Bundle, photographs: Sequence[Any]) -> list[NDArray[np.uint8]]:
    crops = []
    for photograph in photographs:
        image = decode(photograph.path).image
        if image is None:
            raise QcamError(f"{photograph.path} cannot be read")
        crops.append(bundle.preprocessing.crop_image(image))
    return crops


def _rows(heads: Sequence[str]) -> Callable[[dict[str, Any]], list[str]]:
    """Return what shows a record of rows."""
    return lambda record: table(heads, record["rows"])


def _digest(*arrays: NDArray[Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


# --- the machine


def _machine(asked: Asked) -> dict[str, Any]:
    import onnxruntime

    rows = [["system", f"{machine.describe()['system']}, {machine.describe()['cores']} cores"]]
    query = "name,compute_cap,driver_version,memory.total"
    told = _output(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"])
    rows.append([f"nvidia-smi: {query.replace(',', ', ')}", told or "not found"])
    rows += [[name, version] for name, version in machine.versions().items()]
    rows.append(["onnxruntime's providers", ", ".join(onnxruntime.get_available_providers())])
    rows.append(["onnxruntime's build", str(onnxruntime.get_build_info())[:120]])
    cuda = _output([sys.executable, "-c", "import torch; print(torch.version.cuda, torch.backends.cudnn.version())"])
    rows.append(["torch's CUDA and cuDNN", cuda or "no torch"])
    return {"rows": rows}


def _output(command: Sequence[str], **variables: str) -> str:
    """Return what a command prints on standard output, stripped; empty if it cannot be run or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ) | variables
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# --- load order

_LOAD = """
import importlib, sys
provider, path, *order = sys.argv[1:]
for name in order:
    importlib.import_module(name)
from qcam.runtime.bundle import load_bundle
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed import session as deployed_session
from qcam.runtime.deployed.partition import foretell
model = DeployedModel(load_bundle(path), "f32", SessionSettings(provider))
print(model.placement.describe())
"""


def _load_order(asked: Asked) -> dict[str, Any]:
    rows = []
    for order in (["onnxruntime", "torch"], ["torch", "onnxruntime"], ["onnxruntime"]):
        command = [sys.executable, "-c", _LOAD, asked.provider, str(asked.bundles[0]), *order]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        last = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:] or ["nothing printed"]
        rows.append([", then ".join(order), "loaded" if done.returncode == 0 else "failed", last[0][:200]])
    return {"rows": rows}


# --- who runs what


def _placement(asked: Asked) -> dict[str, Any]:
    rows = []
    for bundle, precision in asked.models():
        model = DeployedModel(bundle, precision, asked.settings)
        where: Counter[str] = Counter()
        for subgraph in model._session.get_provider_graph_assignment_info():  # the very nodes that are foretold
            where[subgraph.ep_name] += len(subgraph.get_nodes())
        own = where[PROVIDERS[asked.provider]]
        found = f"{own} / {sum(where.values()) - own}"
        foretold = foretell(bundle.path(precision), folded=asked.provider != "CPU")
        expected = f"{foretold.on_cuda} / {foretold.on_cpu}"
        copies = f"{model.placement.copies}, foretold {foretold.copies}"
        judged = "as foretold" if found == expected else "OTHERWISE"
        rows.append([bundle.model_id, precision, found, expected, judged, copies, model.placement.describe()])
    return {"rows": rows}


# --- the same again


def _repeat(asked: Asked) -> dict[str, Any]:
    rows = []
    for bundle, precision in asked.models():
        images = asked.images(bundle, 8)
        model = DeployedModel(bundle, precision, asked.settings)
        first, again = model.run(images), model.run(images)
        single = [model.run(images[index : index + 1]) for index in range(len(images))]
        other = DeployedModel(bundle, precision, replace(asked.settings, io_binding=asked.provider == "CPU")).run(images)
        command = [sys.executable, __file__, "digest", asked.provider, str(bundle.folder), precision]
        processes = {_output(command) for _ in range(3)}
        rows.append(
            [
                bundle.model_id,
                precision,
                _alike(first, again),
                _alike(first, other),
                "equal" if processes == {_digest(first.logits, first.tap)} else f"{len(processes)} different results",
                _alike(
                    first,
                    replace(
                        first,
                        logits=np.concatenate([one.logits for one in single]),
                        tap=np.concatenate([one.tap for one in single]),
                    ),
                ),
            ]
        )
    return {"rows": rows}


def _alike(first: Any, second: Any) -> str:
    """Say how two runs differ."""
    if np.array_equal(first.logits, second.logits) and np.array_equal(first.tap, second.tap):
        return "equal"
    error = max(logit_error(a, b, b) for a, b in zip(first.logits, second.logits, strict=True))
    return f"logit error ≤ {error:.1e}, {np.mean(first.tap == second.tap) * 100:.4g} % of the tap equal"


def _resume(asked: Asked) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        options = ["--provider", asked.provider, "--allow-fallback", "--saliency", "spectral", "--workers", "1"]
        options += ["--limit", str(asked.count), "--batch-size", "4", "--no-report", "--grid-rows", "0"]

        def command(output: str) -> list[str]:
            return [
                sys.executable,
                "-m",
                "qcam.commands.eval",
                str(asked.bundles[0]),
                *options,
                "--output",
                str(place / output),
            ]

        subprocess.run(command("whole"), check=True, capture_output=True, timeout=400)
        killed = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        parts = place / "killed" / "parts"
        while killed.poll() is None and not list(parts.glob("*.parquet")):
            time.sleep(0.01)
        done = len(list(parts.glob("*.parquet")))
        killed.send_signal(signal.SIGKILL)
        ended = killed.wait()
        resumed = subprocess.run(command("killed"), check=False, capture_output=True, text=True, timeout=400)
        if resumed.returncode:
            raise QcamError(f"the resumed run: {resumed.stderr.strip().splitlines()[-1]}")
        how = f"killed with {done} parts finished" if ended == -signal.SIGKILL else "ended before it could be killed"
        for file in _SAME:
            same = (place / "whole" / file).read_bytes() == (place / "killed" / file).read_bytes()
            rows.append([file, how, "equal, byte by byte" if same else "differs"])
    return {"rows": rows}


# --- arithmetic


def _deployed_maps(bundle: Bundle, precision: str, settings: SessionSettings, images: Any, targets: Any) -> dict[str, Any]:
    """Return logits, tap and deployed CAMs, the gradient from a mirror on the CPU: all differences are the session's."""
    from qcam.evaluate.run.explained import explain
    from qcam.runtime.mirror import Mirror

    session = DeployedModel(bundle, precision, settings)
    mirror = Mirror(load_onnx(bundle, precision), session.entry, tail_only=True)
    parts: dict[str, list[Any]] = {"logits": [], "tap": [], "cam": []}
    for outputs in session.batches(images, 4):
        start = sum(map(len, parts["logits"]))
        wanted = outputs.logits.argmax(axis=1) if targets is None else targets[start : start + len(outputs.logits)]
        taps = [mirror.dequantize(tap, value) for tap, value in zip(session.taps, (outputs.tap, *outputs.skips), strict=True)]
        parts["cam"].append(enlarge(explain(mirror, taps[0], wanted, taps[1:]).maps, bundle.preprocessing.crop))
        parts["logits"].append(outputs.logits)
        parts["tap"].append(outputs.tap)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _tf32(asked: Asked) -> dict[str, Any]:
    rows = []
    for folder in asked.bundles:
        bundle = load_bundle(folder)
        images, targets = asked.images(bundle), None
        for precision in ordered_precisions([entry.name for entry in bundle.precisions]):
            cpu = _deployed_maps(bundle, precision, SessionSettings("CPU"), images, targets)
            if targets is None:
                targets = cpu["logits"].argmax(axis=1)
            ways = {"TF32 off": asked.settings}
            if asked.provider != "CPU":
                ways["TF32 on"] = replace(asked.settings, tf32=True)
            for how, settings in ways.items():
                here = _deployed_maps(bundle, precision, settings, images, targets)
                error = [logit_error(a, b, b) for a, b in zip(here["logits"], cpu["logits"], strict=True)]
                cc = correlation(here["cam"], cpu["cam"])
                equal = f"{np.mean(here['tap'] == cpu['tap']) * 100:.4g} %" if precision != "f32" else ""
                errors = f"{np.mean(error):.1e} ± {np.std(error):.0e}"
                spread = f"{np.nanmean(cc):.5f} ± {np.nanstd(cc):.5f}"
                rows.append([bundle.model_id, precision, how, equal, errors, spread, f"{np.nanmin(cc):.5f}"])
    return {"rows": rows}


def _check(asked: Asked) -> dict[str, Any]:
    rows = []
    for bundle, precision in asked.models():
        with tempfile.TemporaryDirectory() as name:
            command = [sys.executable, "-m", "qcam.commands.check", str(bundle.folder), "--precision", precision]
            command += ["--arithmetic", "fake_quant", "--provider", asked.provider, "--no-other-cpus", "--output", name]
            done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
            told = Path(name) / "check.json"
            if not told.is_file():
                rows.append([bundle.model_id, precision, "–", "–", "–", (done.stderr.strip().splitlines() or ["?"])[-1][:200]])
                continue
            for result in json.loads(told.read_text(encoding="utf-8"))["results"]:
                figures = result["figures"]
                shares = [_figure(figures.get(name)) for name in ("codes", "tap", "cc")]
                rows.append([bundle.model_id, precision, *shares, f"exit code {done.returncode}"])
    return {"rows": rows}


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.6f}"


def _mirrors(asked: Asked) -> dict[str, Any]:
    from qcam.runtime.mirror import Mirror

    device = "cpu" if asked.provider == "CPU" else "cuda"
    rows = []
    for bundle, precision in asked.models():
        images = asked.images(bundle, 4)
        for arithmetic in ("fake_quant",) if precision == "f32" else ("fake_quant", "integer"):
            found = {}
            for place in ("cpu", device):
                mirror = Mirror(load_onnx(bundle, precision), bundle.precision(precision), place, arithmetic)
                passed = mirror.forward(images)
                entry = mirror.entry
                values = zip((entry.tap, *entry.skips), (passed.tap, *passed.skips), strict=True)
                taps = [mirror.dequantize(tap, value) for tap, value in values]
                gradient = mirror.gradient(taps[0], passed.logits.argmax(dim=1), taps[1:])
                found[place] = [item.cpu().numpy() for item in (passed.logits, passed.tap, gradient)]
            here, there = found["cpu"], found[device]
            error = max(logit_error(a, b, b) for a, b in zip(there[0], here[0], strict=True))
            slope = np.linalg.norm((there[2] - here[2]).astype(np.float64)) / np.linalg.norm(here[2].astype(np.float64))
            share = np.mean(here[1] == there[1]) * 100
            rows.append([bundle.model_id, precision, arithmetic, f"{share:.4g} %", f"{error:.1e}", f"{slope:.1e}"])
    return {"rows": rows}


def _null_row(asked: Asked) -> dict[str, Any]:
    rows = []
    for folder in asked.bundles:
        with tempfile.TemporaryDirectory() as name:
            command = [sys.executable, "-m", "qcam.commands.eval", str(folder), "--provider", asked.provider]
            command += ["--allow-fallback", "--precision", "f32", "--saliency", "spectral", "--limit", str(asked.count)]
            command += ["--no-fake-quant", "--no-report", "--grid-rows", "0", "--workers", "1", "--output", f"{name}/run"]
            subprocess.run(command, check=True, capture_output=True, timeout=400)
            found = [row for row in read_arrow(Path(name) / "run" / RESULTS).to_pylist() if row["comparison"] == "vs_f32"]
        values = [row["CC"] for row in found if row["CC"] is not None]
        exact = sum(value == 1 for value in values)
        rows.append([folder.name, len(values), exact, f"{min(values):.8f}" if values else "–"])
    return {"rows": rows}


# --- what fails, and how it is told

_INJECTED = """
import sys
from onnxruntime.capi import onnxruntime_pybind11_state as state
from qcam.commands import eval as command
import onnxruntime
real = onnxruntime.InferenceSession.__init__
def broken(self, *arguments, **options):
    real(self, *arguments, **options)
    inner = self._sess
    class Failing:
        def __getattr__(self, name):
            return getattr(inner, name)
        def run(self, *_):
            raise state.EPFail("injected: the provider failed")
        def run_with_iobinding(self, *_):
            raise state.EPFail("injected: the provider failed")
    self._sess = Failing()
onnxruntime.InferenceSession.__init__ = broken
command.main(sys.argv[1:])
"""


def _failures(asked: Asked) -> dict[str, Any]:
    rows = []
    options = [str(asked.bundles[0]), "--provider", asked.provider, "--precision", "f32", "--saliency", "none", "--limit", "2"]
    with tempfile.TemporaryDirectory() as name:
        options += ["--no-report", "--grid-rows", "0", "--workers", "1", "--output", f"{name}/run"]
        plain = [sys.executable, "-m", "qcam.commands.eval", *options]
        cudnn = _folder_of("nvidia.cudnn")
        hidden = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none "{cudnn}" && exec "$@"', "sh"] if cudnn else []
        cases: list[tuple[str, list[str], dict[str, str]]] = [
            ("no card shown (CUDA_VISIBLE_DEVICES=-1)", plain, {"CUDA_VISIBLE_DEVICES": "-1"}),
            ("a failure injected into the run", [sys.executable, "-c", _INJECTED, *options], {}),
        ]
        if hidden:
            cases.append(("cuDNN hidden", [*hidden, *plain], {}))
        else:
            rows.append(["cuDNN hidden", "–", "not tried: cuDNN is not installed as a Python package"])
        for title, command, variables in cases:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=300, check=False, env=dict(os.environ) | variables
            )
            last = " ".join(done.stderr.strip().splitlines()[-3:])
            rows.append([title, done.returncode, last[-400:]])
            shutil.rmtree(f"{name}/run", ignore_errors=True)
    return {"rows": rows}


def _folder_of(module: str) -> str:
    """Return the folder of an installed module; empty if there is none."""
    from importlib.util import find_spec

    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return ""
    return "" if spec is None or not spec.submodule_search_locations else next(iter(spec.submodule_search_locations))


# --- time and memory


def _speed(asked: Asked) -> dict[str, Any]:
    rows = []
    for folder in asked.bundles:
        bundle = load_bundle(folder)
        images = np.concatenate([asked.images(bundle, 16)] * 2)
        precisions = ordered_precisions([entry.name for entry in bundle.precisions])
        used = _Used()
        models = {}
        for precision in precisions:
            models[precision] = DeployedModel(bundle, precision, asked.settings)
            models[precision].run(images[: max(_BATCHES)])
            used(precision)
        for batch in _BATCHES:
            seconds: dict[str, list[float]] = {precision: [] for precision in precisions}
            for turn in range(_ROUNDS + 1):
                for precision in precisions[:: -1 if turn % 2 else 1]:
                    start = time.perf_counter()
                    for outputs in models[precision].batches(images, batch):
                        del outputs
                    if turn:  # the first one warms up
                        seconds[precision].append((time.perf_counter() - start) / len(images) * 1000)
            base = statistics.median(seconds[precisions[0]])
            for precision in precisions:
                middle = statistics.median(seconds[precision])
                spread = f"{min(seconds[precision]):.2f} … {max(seconds[precision]):.2f}"
                memory = used.found.get(precision, "–") if batch == max(_BATCHES) else ""
                rows.append([bundle.model_id, precision, batch, f"{middle:.2f}", spread, f"{middle / base:.2f}", memory])
    return {"rows": rows}


class _Used:
    """GPU memory of this process, asked of nvidia-smi."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._before = self._now()

    def __call__(self, name: str) -> None:
        now = self._now()
        if now is not None and self._before is not None:
            self.found[name] = f"{now - self._before:,} MiB"
        self._before = now

    def _now(self) -> int | None:
        told = _output(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"])
        return int(told.splitlines()[0]) if told else None


# --- fixtures


def _profiles(asked: Asked) -> dict[str, Any]:
    """Keep what ONNX Runtime's own profile says of one blank image, without times and threads: fixtures for tests."""
    folder = asked.build / "profiles"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    read = deployed_session.read_profile
    for bundle, precision in asked.models():
        whole = folder / "whole.json"

        def keep(path: Path, *arguments: Any, whole: Path = whole) -> Any:
            shutil.copy(path, whole)
            return read(path, *arguments)

        setattr(deployed_session, "read_profile", keep)  # noqa: B010 - the profile of a session as qcam makes it
        try:
            DeployedModel(bundle, precision, asked.settings)
        finally:
            setattr(deployed_session, "read_profile", read)  # noqa: B010
        events = json.loads(whole.read_text(encoding="utf-8"))
        whole.unlink()
        kept = [
            {"cat": "Node", "name": event["name"], "args": {key: event["args"][key] for key in _KEPT if key in event["args"]}}
            for event in events
            if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time")
        ]
        path = folder / f"{bundle.folder.name}-{precision}-{asked.provider}.json"
        path.write_text(json.dumps(kept, indent=0), encoding="utf-8")
        rows.append([path.name, len(kept), len({event["args"]["op_name"] for event in kept})])
    return {"rows": rows}


#: Every step, in the order of the page.
STEPS = {
    "machine": Step("The machine", _machine, _rows(("what", "found"))),
    "load_order": Step("Which is imported first", _load_order, _rows(("order", "provider", "what was said"))),
    "placement": Step(
        "Who runs what, nodes on the GPU / on the CPU",
        _placement,
        _rows(("network", "precision", "found", "foretold", "judged", "copies", "in words")),
    ),
    "repeat": Step(
        "The same again",
        _repeat,
        _rows(("network", "precision", "same session", "bound or not", "three processes", "batch of 1 v. 8")),
    ),
    "resume": Step("Killed and resumed", _resume, _rows(("file", "how", "against an undisturbed run"))),
    "tf32": Step(
        "Against the CPU, with and without TF32",
        _tf32,
        _rows(("network", "precision", "arithmetic", "codes at tap equal", "logit error", "CC", "worst CC")),
    ),
    "check": Step(
        "Simulated against deployed", _check, _rows(("network", "precision", "codes", "codes at tap", "CC", "qcam-check"))
    ),
    "mirrors": Step(
        "Mirrors on the GPU against the CPU",
        _mirrors,
        _rows(("network", "precision", "arithmetic", "tap equal", "logit error", "gradient, relative")),
    ),
    "null_row": Step("The null row", _null_row, _rows(("network", "photographs", "CC exactly 1", "worst CC"))),
    "failures": Step("What fails, and what is said", _failures, _rows(("what was done", "exit code", "last words"))),
    "speed": Step(
        "Time and memory",
        _speed,
        _rows(("network", "precision", "batch", "ms an image", "least … most", "ratio to f32", "GPU memory taken")),
    ),
    "profiles": Step("Profiles kept as fixtures", _profiles, _rows(("file", "kernels", "kinds"))),
}


if __name__ == "__main__":  # one process of "three processes"
    _, _, provider, folder, precision = sys.argv
    one = Asked((Path(folder),), 8, provider, Path())
    ran = DeployedModel(load_bundle(Path(folder)), precision, one.settings).run(one.images(load_bundle(Path(folder))))
    print(_digest(ran.logits, ran.tap))
