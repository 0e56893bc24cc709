"""The run of `qcam-eval`: images through bundles, shard by shard, so that a killed run goes on where it stopped.

A shard is a number of images. Each finished shard is two Parquet files below `parts/` (maps first, then rows: the rows
file says the shard is complete), which appear whole or not at all. The plan (bundles, images, options, versions) stands in
`run.json`; a folder with another plan is refused, so results of different settings never mix.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from qcam.calibration.images import Decoded, ImageFile, decode
from qcam.common import console, machine
from qcam.common.errors import QcamError
from qcam.common.files import fingerprint, readable_json, sha256_file, write_atomically
from qcam.evaluate.evaluator import BundleEvaluator, Sample
from qcam.evaluate.results import (
    MAP_SCHEMA,
    ROW_SCHEMA,
    Row,
    StoredMap,
    read_arrow,
    read_rows,
    summarise,
    write_arrow,
    write_table,
)
from qcam.evaluate.saliency import NoMapError, SaliencySource, crop_map
from qcam.evaluate.stages import StageClock
from qcam.runtime.bundle import PRECISIONS, Bundle
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.deployed.probe import KernelProbe, probe_kernels, saturates_in_pairs

RESULTS, MAPS, SUMMARY, RUN, TABLE = "results.parquet", "maps.parquet", "summary.json", "run.json", "table.md"
PLACEMENT = "placement.json"
#: What a complete run has left.
FILES = (RESULTS, MAPS, SUMMARY, PLACEMENT)
_PARTS = "parts"
#: Images between two safe points.
SHARD_SIZE = 16


@dataclass(frozen=True)
class StudyOptions:
    """What can change a figure, besides bundles and images.

    Attributes:
        precisions: Those to evaluate; empty for all that a bundle holds.
        settings: How sessions are made.
        saliency: As given on the command line.
        target: Which class is explained.
        method: CAM method.
        batch_size: Images at a time.
        fake_quant: Whether the fake-quant mirror is run in full.
    """

    precisions: tuple[str, ...]
    settings: SessionSettings = field(default_factory=SessionSettings)
    saliency: str = "u2netp"
    target: str = "f32-top1"
    method: str = "gradcam++"
    batch_size: int = 8
    fake_quant: bool = True

    def describe(self) -> str:
        """Say in one line what the figures depend on."""
        config = ", ".join(f"{key}={value}" for key, value in self.settings.config.items())
        line = f"{self.method}, target {self.target}, salient objects: {self.saliency}, batches of {self.batch_size}"
        return line + (f", session configuration {config}" if config else "")

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON-ready values."""
        return asdict(self) | {"precisions": list(self.precisions)}


class Study:
    """Images × bundles × precisions, and the folder the results go to.

    Attributes:
        folder: Where results go.
        options: What can change a figure.
        evaluators: One per bundle, sessions open.
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        images: Sequence[ImageFile],
        saliency: SaliencySource | None,
        options: StudyOptions,
        folder: Path,
    ) -> None:
        """Open every session, so that a provider that cannot be had is refused before anything is written."""
        self.folder = folder
        self._images = list(images)
        self._saliency = saliency
        self.options = options
        self._clock = StageClock()
        # A shard holds whole batches: a smaller one would cut the batch that was asked for.
        self._shard_size = -(-SHARD_SIZE // options.batch_size) * options.batch_size
        ids = [bundle.model_id for bundle in bundles]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise QcamError(f"two bundles of the same model ({', '.join(twice)}) cannot share one table; evaluate them apart")
        with self._clock.stage("open sessions"):
            self.evaluators = [
                BundleEvaluator(
                    bundle,
                    _wanted(bundle, options.precisions),
                    options.settings,
                    target=options.target,
                    method=options.method,
                    batch_size=options.batch_size,
                    fake_quant=options.fake_quant,
                )
                for bundle in bundles
            ]

    def prepare(self, device: str, *, force: bool) -> bool:
        """Fingerprint the images, compare the plan with what the folder holds, and say whether anything is to do.

        Args:
            device: PyTorch device of the mirrors.
            force: Whether results of another plan are deleted.

        Returns:
            False if the folder holds the complete results of this very plan.

        Raises:
            QcamError: If the folder holds something else; names what differs.
        """
        self._device = device
        with self._clock.stage("fingerprint images"):
            hashes = {}
            for image in self._images:
                try:
                    hashes[image.name] = [sha256_file(image.path), image.label]
                except OSError:
                    hashes[image.name] = ["unreadable", image.label]
        self._plan = {
            "bundles": {e.bundle.model_id: e.bundle.fingerprint for e in self.evaluators},
            "images": {"count": len(hashes), "fingerprint": fingerprint(hashes)},
            "saliency": None if self._saliency is None else self._saliency.fingerprint,
            "options": self.options.to_json(),
            "device": device,
            "shard_size": self._shard_size,
            "cpu_features": machine.cpu_features(),
            "kernels": None if self.kernels is None else self.kernels.name,
            "versions": machine.versions(),
        }
        path = self.folder / RUN
        self._anew = force or not path.exists()
        if self._anew:
            if not force and any((self.folder / name).exists() for name in (RESULTS, SUMMARY)):
                raise QcamError(f"{self.folder} holds results without a {RUN}; use --force to replace them, or --output")
            return True
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise QcamError(f"cannot read {path}: {error}; use --force to start anew") from error
        if not isinstance(before, dict) or not isinstance(before.get("plan"), dict):
            raise QcamError(f"{path} is not the record of a run; use --force to start anew")
        differing = _differences(before["plan"], json.loads(json.dumps(self._plan)))
        if differing:
            raise QcamError(
                f"{self.folder} holds results of other settings ({', '.join(differing)}); "
                "use --force to replace them, or --output for another folder"
            )
        return not (before.get("complete") and all((self.folder / name).exists() for name in FILES))

    def run(self) -> None:
        """Evaluate every shard that is not finished yet, then write the results.

        Nothing is written, nor old results deleted, before every graph has been mirrored.

        Raises:
            QcamError: If a graph cannot be mirrored, or the disk refuses.
            KeyboardInterrupt: If interrupted; what is finished has been written, readable, before.
        """
        with self._clock.stage("build mirrors"):
            for evaluator in self.evaluators:
                evaluator.build_mirrors(self._device)
        if self._anew:
            self._delete_results()
            self._write_run(complete=False)
        size = self._shard_size
        shards = [self._images[start : start + size] for start in range(0, len(self._images), size)]
        todo = [index for index in range(len(shards)) if not self._part(index).exists()]
        if len(todo) < len(shards):
            console.note(f"{len(shards) - len(todo)} of {len(shards)} shards are done already; going on")
        try:
            steps = sum(len(shards[index]) for index in todo) * len(self.evaluators)
            with console.progress("images × models", steps) as advance:
                for index in todo:
                    self._run_shard(index, shards[index], advance)
        except KeyboardInterrupt:
            self._collect(len(shards), complete=False)
            raise
        self._collect(len(shards), complete=True)

    def rows(self) -> list[Row]:
        """Read the results back."""
        return read_rows(self.folder / RESULTS)

    def samples(self, images: Sequence[ImageFile]) -> dict[str, dict[str, Sample]]:
        """Decode images once and crop them for every bundle.

        Returns:
            Model id → image name → sample, refused images left out.
        """
        return {model: {s.name: s for s in found} for model, found in self._samples(images, {}).items()}

    def _run_shard(self, index: int, images: Sequence[ImageFile], advance: Any) -> None:
        rows: list[Row] = []
        maps: list[StoredMap] = []
        # Decoded a batch at a time: the bar moves, and memory is bounded by the batch.
        for start in range(0, len(images), self.options.batch_size):
            batch = images[start : start + self.options.batch_size]
            refused: dict[str, tuple[str, str]] = {}
            by_model = self._samples(batch, refused)
            for evaluator in self.evaluators:
                for image in batch:
                    if image.name in refused:
                        sha256, reason = refused[image.name]
                        rows += evaluator.refused(image.name, sha256, image.label, reason)
                samples = by_model[evaluator.bundle.model_id]
                if samples:
                    more_rows, more_maps = evaluator.evaluate(samples, self._clock)
                    rows += more_rows
                    maps += more_maps
                advance(len(batch))
        order = {image.name: place for place, image in enumerate(images)}
        rows.sort(key=lambda row: order[row.image])  # whatever the batch size was
        maps.sort(key=lambda item: order[item.image])
        with self._clock.stage("write"):
            write_table(self._part(index, MAPS), maps, MAP_SCHEMA)
            write_table(self._part(index), rows, ROW_SCHEMA)

    def _samples(self, images: Sequence[ImageFile], refused: dict[str, tuple[str, str]]) -> dict[str, list[Sample]]:
        """Decode, ask for saliency, crop; what cannot be used is put into `refused` with its fingerprint and reason."""
        geometries = {e.bundle.model_id: e.bundle.preprocessing for e in self.evaluators}
        samples: dict[str, list[Sample]] = {model: [] for model in geometries}
        # Decoding ahead by the number of cores bounds the memory that decoded pictures take.
        ahead = machine.available_cores()
        with ThreadPoolExecutor(ahead) as pool:
            for start in range(0, len(images), ahead):
                files = images[start : start + ahead]
                with self._clock.stage("decode"):
                    decoded = list(pool.map(lambda file: decode(file.path), files))
                for file, result in zip(files, decoded, strict=True):
                    if result.image is None:
                        refused[file.name] = (result.sha256, result.refusal)
                    elif self.options.target == "label" and file.label is None:
                        refused[file.name] = (result.sha256, "no label, and --target label explains the labelled class")
                    else:
                        for model, sample in self._crop(file, result, result.image).items():
                            samples[model].append(sample)
        return samples

    def _crop(self, file: ImageFile, decoded: Decoded, image: Image.Image) -> dict[str, Sample]:
        whole, missing = None, "no salient-object maps were asked for"
        if self._saliency is not None:
            with self._clock.stage("saliency"):
                try:
                    whole, missing = self._saliency.whole_map(image, file), ""
                except NoMapError as error:
                    missing = str(error)
        result = {}
        with self._clock.stage("crop"):
            cache: dict[str, tuple[Any, Any]] = {}  # models share crops where they share preprocessing
            for evaluator in self.evaluators:
                preprocessing = evaluator.bundle.preprocessing
                key = repr(preprocessing)
                if key not in cache:
                    cut = None if whole is None else crop_map(whole, image.size, preprocessing)
                    cache[key] = (preprocessing.crop_image(image), cut)
                crop, saliency = cache[key]
                result[evaluator.bundle.model_id] = Sample(
                    file.name, decoded.sha256, file.label, decoded.remark, crop, saliency, missing
                )
        return result

    def _part(self, index: int, name: str = RESULTS) -> Path:
        return self.folder / _PARTS / f"{index:06d}.{name}"

    def _collect(self, shards: int, *, complete: bool) -> None:
        """Join the finished parts into the result files, and the record of the run."""
        done = [index for index in range(shards) if self._part(index).exists()]
        if complete and len(done) < shards:
            raise QcamError(f"{shards - len(done)} of {shards} parts in {self.folder} are gone; run the same command again")
        tables = [read_arrow(self._part(index)) for index in done]
        write_arrow(self.folder / RESULTS, pa.concat_tables(tables) if tables else ROW_SCHEMA.empty_table())
        tables = [read_arrow(self._part(index, MAPS)) for index in done]
        write_arrow(self.folder / MAPS, pa.concat_tables(tables) if tables else MAP_SCHEMA.empty_table())
        rows = self.rows()
        summary = {"complete": complete, "std": "of the population", "entries": summarise(rows)}
        write_atomically(self.folder / SUMMARY, readable_json(summary))
        placements = {
            e.bundle.model_id: {name: session.placement.to_json(nodes=True) for name, session in e.deployed.items()}
            for e in self.evaluators
        }
        write_atomically(self.folder / PLACEMENT, readable_json(placements))
        self._write_run(complete=complete)
        if complete:
            shutil.rmtree(self.folder / _PARTS, ignore_errors=True)

    def _write_run(self, *, complete: bool) -> None:
        settings = self.options.settings
        value = {
            "schema_version": 1,
            "complete": complete,
            "plan": self._plan,
            "machine": machine.describe(),
            "kernels": {"family": "not applicable"} if self.kernels is None else self.kernels.to_json(),
            "int8_kernels_saturate_in_pairs": self.saturates,
            "provider": settings.provider,
            "models": {
                e.bundle.model_id: {
                    "bundle": e.bundle.folder.name,
                    "weights": e.bundle.weights,
                    "precisions": {
                        name: {"sha256": session.entry.sha256, "tap": session.entry.tap.tensor} | session.placement.to_json()
                        for name, session in e.deployed.items()
                    },
                }
                for e in self.evaluators
            },
            "conventions": {
                "CAM": f"{self.options.method}, float64, epsilon 0, on the logit before softmax",
                "maps": "CAMs enlarged bilinearly to the network's input size, then every map min-max to 0..1",
                "SIM": "sum min(P, Q), both summing to 1",
                "CC": "Pearson",
                "KLD": "sum P log(eps + P / (eps + Q)), P the evaluated map, Q the reference, eps 2.2204e-16",
                "fake_quant_vs_deployed": "P fake-quant, Q deployed",
            },
            "seconds": {stage: round(value, 4) for stage, value in self._clock.seconds.items()},
        }
        write_atomically(self.folder / RUN, readable_json(value))

    @cached_property
    def kernels(self) -> KernelProbe | None:
        """Return what the CPU provider's kernels answered; None if no session computes on it."""
        if self.options.settings.provider != "CPU" and not any(
            session.placement.fallback for evaluator in self.evaluators for session in evaluator.deployed.values()
        ):
            return None
        return probe_kernels(self.options.settings.config)

    @property
    def saturates(self) -> bool:
        """Tell whether a figure of this run depends on 16-bit saturation in this CPU's int8 kernels."""
        return self.kernels is not None and any(
            session.placement.integer
            and session.entry.quantization.get("activation") == "UINT8"
            and not session.entry.quantization.get("weight_reduced_range")
            for evaluator in self.evaluators
            for session in evaluator.deployed.values()
        ) and saturates_in_pairs(self.options.settings.config)

    def _delete_results(self) -> None:
        """Remove this program's own files from the folder; anything else in it is not ours to delete."""
        ours = [*FILES, RUN, TABLE, *(path.name for path in self.folder.glob("grid-*.png"))]
        shutil.rmtree(self.folder / _PARTS, ignore_errors=True)
        for name in ours:
            (self.folder / name).unlink(missing_ok=True)


def _wanted(bundle: Bundle, asked: Sequence[str]) -> list[str]:
    """Return the precisions to evaluate, f32 first whatever the order they were asked for in: others explain its class.

    Raises:
        QcamError: If one was asked for that the bundle does not hold.
    """
    for name in asked:
        bundle.precision(name)
    held = [entry.name for entry in bundle.precisions]
    return [name for name in PRECISIONS if name in (asked or held) and name in held]


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Name the entries in which two plans differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [key for key in {**before, **now}]
        found = []
        for key in names:
            found += _differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
        return found
    return [] if before == now else [f"{where} {_brief(before)} → {_brief(now)}"]


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else text[:12] + "…" + '"' * text.startswith('"')
