"""One precision of a bundle in an ONNX Runtime session: logits and tap codes, strictly on the provider asked for."""

from __future__ import annotations

import io
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from qcam.common import telling
from qcam.common.arguments import truth, whole
from qcam.common.errors import BundleError, OutOfMemoryError, ProviderError, QcamError, first_line
from qcam.common.files import sha256_file
from qcam.common.vocabulary import InputValues, Layout
from qcam.runtime.agreement import check_agreement, check_original, refuse_duplicates
from qcam.runtime.bounded import refuse_unbounded
from qcam.runtime.bundle import Bundle, Original, PrecisionEntry, Tap, load_onnx
from qcam.runtime.deployed.filenodes import FileNodes
from qcam.runtime.deployed.fitness import refuse_unfit
from qcam.runtime.deployed.folding import EXTERNAL_FOLDER, REQUANTIZER, fold_biases, folded_copy
from qcam.runtime.deployed.listed import SessionFile, listed_providers
from qcam.runtime.deployed.loading import (
    CUDA_PROVIDERS,
    NO_TORCH,
    Wheels,
    explain_failed_run,
    explain_not_loaded,
    import_torch,
    installed_wheels,
    out_of_memory,
    provider_failed,
    torch_may_help,
    whole_text,
)
from qcam.runtime.deployed.packed import PackedCopies, PackedCopy, packable
from qcam.runtime.deployed.placement import Placement, read_profile
from qcam.runtime.deployed.provider_options import BEHIND, ENGINES, NVIDIA, checked_options, device_index, options_in_effect
from qcam.runtime.deployed.providers import PROVIDERS, captured_output, preload, require_provider
from qcam.runtime.external import external_files, load_external, parse_onnx, refuse_unhashed
from qcam.runtime.session_config import ASSIGNMENT, NO_CPU, NO_SPINNING, SHARED_ARENA, changing, merged
from qcam.runtime.tables import COMPUTE_OPERATORS
from qcam.runtime.wellformed import refuse_damaged, refuse_no_text

#: What ONNX Runtime says of a session in which a node was left to the CPU, where that is refused.
_LEFT_TO_CPU = "assigned to the default CPU EP"
#: How many operators are named of nodes that are elsewhere.
_NAMED_OPERATORS = 4
#: Most characters of what Python code printed that a message repeats.
_LONGEST_PRINT = 400
#: Takes the name of a part of a run; the block under what it returns is that part.
Timed = Callable[[str], AbstractContextManager[object]]
#: Most bytes of a constant that is read from another file to hold the file against the manifest: no scale has more.
_SCALAR = 16
#: How many pictures a session that is opened again is shown, and the seed of their noise.
_SHOWN, _SEED = 2, 20


@dataclass(frozen=True)
class SessionSettings:
    """How sessions are made.

    Attributes:
        provider: Short name of the execution provider.
        threads: Threads within an operator; 0 leaves it to ONNX Runtime.
        allow_fallback: Whether a session that is not wholly on the provider is accepted (and reported).
        io_binding: Whether inputs and outputs are bound to device memory; None: on GPUs only.
        config: Further session configuration entries of ONNX Runtime, name → value.
        provider_options: What the provider is told besides, key → value (`provider_options.py`).
        tf32: Whether a GPU may compute products of float32 in TF32, there and in PyTorch.
        batch: The largest batch that will run: providers that build engines build them for it.
    """

    provider: str = "CPU"
    threads: int = 0
    allow_fallback: bool = False
    io_binding: bool | None = None
    config: dict[str, str] = field(default_factory=dict)
    provider_options: dict[str, str] = field(default_factory=dict)
    tf32: bool = False
    batch: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers and options of the provider that there cannot be.

        Raises:
            QcamError: If the threads are no whole number from 0, the batch none from 1, TF32 is neither allowed nor not, or the
                provider has no such option.
        """
        object.__setattr__(self, "threads", whole(self.threads, "{threads}", least=0))
        object.__setattr__(self, "batch", whole(self.batch, "{batch_size}"))
        object.__setattr__(self, "tf32", truth(self.tf32, "{tf32}"))
        object.__setattr__(self, "provider_options", checked_options(self.provider, self.provider_options))

    @property
    def on_gpu(self) -> bool:
        """Tell whether sessions compute on an NVIDIA GPU."""
        return self.provider in NVIDIA

    @property
    def device_index(self) -> int:
        """Return which GPU was asked for, of those that this process sees; 0 where none takes part."""
        return device_index(self.provider_options) if self.on_gpu else 0

    def to_json(self) -> dict[str, Any]:
        """Return what a plan records; of what a provider is told only what is in effect, and nothing where that is nothing."""
        told = options_in_effect(self.provider, self.provider_options)
        kept = ("provider", "threads", "allow_fallback", "io_binding", "config")
        return {name: value for name, value in asdict(self).items() if name in kept} | (
            {"provider_options": told} if told else {}
        )


@dataclass(frozen=True)
class DeployedOutputs:
    """What one batch gave.

    Attributes:
        logits: float32, batch × classes.
        tap: The tap's values, batch × channels × height × width: codes of a QDQ graph, float32 otherwise.
        skips: The values of the skip tensors, in the manifest's order.
    """

    logits: NDArray[np.float32]
    tap: NDArray[Any]
    skips: tuple[NDArray[Any], ...]


class DeployedModel:
    """A session over one precision of a bundle: of what the user deploys.

    Where that is an original without a tap, and the logits of the copy that has one are not the original's, logits, time and
    placement are those of the original, and the tap's values come from a second session, of the copy.

    Attributes:
        entry: The precision.
        config: The session configuration that can change a code: the manifest's, and over it what the settings say.
        copy: The session of the copy; None where one session gives everything.
        placement: Which kernels run where, from a profiled run of one blank image, or of as many as the file takes.
        folded: How many int32 biases were put into the session as floats; 0 on providers that take them as they are.
        seconds: What opening it took, and the first run of one image.
    """

    _session: Any

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        settings: SessionSettings,
        *,
        file: Path | None = None,
        entry: PrecisionEntry | None = None,
        model: onnx.ModelProto | None = None,
        copies: PackedCopies | None = None,
        judge: Callable[[onnx.ModelProto], None] | None = None,
    ) -> None:
        """Make the session and prove that it is what was asked for.

        Args:
            bundle: The bundle.
            precision: The precision.
            settings: How sessions are made.
            file: Another ONNX file to run in its place; it is not held against the manifest.
            entry: What that file's outputs mean, where they differ from the bundle's.
            model: What is run, parsed before (`load_onnx`, `read_onnx`); None: the file is parsed here.
            copies: Where a session that will be closed and opened again keeps its packed weights meanwhile; None: nowhere.
            judge: Refuses a graph that the caller cannot use, before the session opens; of an original, its copy with a tap.

        Raises:
            BundleError: If the file is not what the manifest says, or `judge` refuses it.
            ProviderError: If the provider cannot be had, cannot run the file, or runs only a part of it.
        """
        self.entry: PrecisionEntry = entry or bundle.precision(precision)
        self.copy: DeployedModel | None = None
        own = file is None
        original = self.entry.original if own and not self.entry.promised else None
        if original is not None:
            single = replace(self.entry, original=None, proof="")
            copied = load_onnx(bundle, precision) if model is None else model
            self.copy = DeployedModel(
                bundle, precision, settings, file=bundle.path(precision), entry=single, model=copied, copies=copies, judge=judge
            )
            file, model = bundle.folder / original.file, None
        self._path = file or bundle.path(precision)
        self._settings = settings
        self._preprocessing = bundle.preprocessing
        self._config = merged(self.entry.session, settings.config)
        self.config = changing(self._config)
        refuse_unfit(self._path, self.entry, settings.provider, allow_fallback=settings.allow_fallback)
        height, width = bundle.preprocessing.crop
        image = (bundle.preprocessing.channels, height, width)
        taken = image if self.entry.input.layout == Layout.NCHW else (*image[1:], image[0])
        nodes = _read_nodes(self._path, self.entry if own else None, taken, model, judge if original is None else None)
        self._readable = nodes is not None
        self.folded = 0
        self._folder = tempfile.TemporaryDirectory(prefix="qcam-profile-")
        self._file = SessionFile(
            sha256=lambda: self.entry.sha256 if file is None else sha256_file(self._path),
            quantized=self.entry.name != "f32",
            inputs={} if nodes is None else nodes.inputs,
            image=taken,
            batch=settings.batch,
        )
        self._packed = self._copy_among(copies, original)
        self._profiled = True  # the first session, of which one run is
        start = time.perf_counter()
        fallback = self._open_first()
        opened = time.perf_counter()
        self._input = self._session.get_inputs()[0].name
        taps = (self.entry.tap, *self.entry.skips)
        self._outputs = [self.entry.logits, *(tap.output for tap in taps if self.copy is None)]
        self._bind = settings.on_gpu if settings.io_binding is None else settings.io_binding
        # An engine for one image says nothing of another: where there are engines, the batch that will run is proven.
        fixed = self.entry.input.batch
        proven = fixed or (settings.batch if settings.provider in ENGINES else 1)
        before = time.perf_counter()
        blank = self._first_run(self._blank(proven, image))
        self.seconds = (opened - start, (time.perf_counter() - before) / proven)
        if blank.logits.ndim != 2 or not _names_fit(blank.logits.shape[1], len(bundle.classes)):
            raise BundleError(f"{self._path} returns logits of shape {blank.logits.shape} for {len(bundle.classes)} classes")
        for value, tap in zip((blank.tap, *blank.skips), taps, strict=True) if own else ():
            if value.dtype != tap.dtype:
                raise BundleError(
                    f"{self._path} returns {tap.output} as {value.dtype}, bundle.json says {tap.dtype}; export the bundle again"
                )
        with self._folder:
            profile = Path(self._session.end_profiling())
            placement = read_profile(profile, self._compute_nodes, fallback, nodes)
        each = tuple(replace(node, macs=node.macs // proven) for node in placement.nodes)
        self.placement: Placement = replace(placement, nodes=each, config=self.config)
        self._profiled = False
        if self._packed is not None:
            try:
                self._packed.expect(self._noticed())
            except QcamError as error:
                self._packed.refuse(self._path, f"it does not run pictures of noise ({first_line(error)})")

    def close(self) -> None:
        """Give the session and its memory back; what is known of it stays."""
        self._session = None
        if self.copy is not None:
            self.copy.close()

    def open(self) -> None:
        """Make the session again if it was closed: of the same file, or of what ONNX Runtime made of it, by the same settings.

        Raises:
            ProviderError: If that cannot be done, or the session is not what it was.
        """
        if self.copy is not None:
            self.copy.open()
        if self._session is not None or self._open_packed():
            return
        before_name, before_nodes, before_all = self._name, self._where, self._all_nodes
        fallback = self._open()
        # Not by the texts: what a loader wrote, and whether torch was imported meanwhile, may differ.
        if (self._name, self._where, self._all_nodes) != (before_name, before_nodes, before_all):
            before, now = (text or "wholly on its provider" for text in (self.placement.fallback, fallback))
            raise ProviderError(f"{self._path}: the session that was opened again is another one: {before} before, {now} now")

    def run(self, images: NDArray[np.float32], timed: Timed = lambda _part: nullcontext()) -> DeployedOutputs:
        """Run one batch of any size.

        Args:
            images: float32, batch × channels × height × width, preprocessed.
            timed: Takes `deployed`, or `copy of` for a second session; the block under what it returns is that part.

        Raises:
            ProviderError: If the provider fails while running (out of memory, a kernel that is missing).
            BundleError: If the file does not return as many results as it takes images.
        """
        with timed("deployed"):
            values = self.values(images, self._outputs)
        if self.copy is not None:
            with timed("copy of"):
                values += self.copy.values(images, [tap.output for tap in self.taps])
        return DeployedOutputs(values[0], values[1], tuple(values[2:]))

    def values(self, images: NDArray[np.float32], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Run one batch and return the named graph outputs; arguments and errors as in `run`.

        A file of a fixed batch runs as often as it takes; what fills its last run up does not come back.
        """
        told = self.entry.input
        if self._settings.provider in ENGINES and told.batch is None and len(images) > self._settings.batch:
            raise ProviderError(
                f"{self._path} was built for batches of at most {self._settings.batch} on {self._settings.provider}, and was "
                f"given {len(images)}: another engine may compute otherwise; open it with that batch"
            )
        fed = told.feed(images, self._preprocessing)
        if told.batch is None:
            return self._values(fed, outputs)
        parts = [self._values(told.filled(fed[part]), outputs) for part in told.chunks(len(fed))]
        joined = []
        for name, *values in zip(outputs, *parts, strict=True):
            by_image = all(value.shape[:1] == (told.batch,) for value in values)
            if not by_image and (len(values) > 1 or name in self._outputs):
                raise BundleError(
                    f"{self._path} takes {told.batch} images at a time and returns {name} of shape {values[0].shape}, which is "
                    "not one result for each image; save it for batches of any size"
                )
            joined.append(np.concatenate(values)[: len(fed)] if by_image else values[0])
        return joined

    def _values(self, images: NDArray[Any], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Run what the file takes at a time, as it takes it."""
        try:
            if self._bind:
                binding = self._session.io_binding()
                binding.bind_cpu_input(self._input, images)
                names = list(dict.fromkeys(outputs))  # a name that is bound twice is one output
                for name in names:
                    binding.bind_output(name, "cpu")
                self._session.run_with_iobinding(binding, self._run_options)
                bound = dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))
                values: list[NDArray[Any]] = [bound[name] for name in outputs]
            else:
                values = self._session.run(list(outputs), {self._input: images}, self._run_options)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            message = f"{self._path} failed on {self._settings.provider} with a batch of {len(images)}: {first_line(error)}"
            said = whole_text(error)
            remedy = explain_failed_run(self._settings.provider, said)
            kind = OutOfMemoryError if out_of_memory(said) else ProviderError
            raise kind(f"{message}; {remedy}" if remedy else message) from error
        if self._name not in self._session.get_providers():
            raise ProviderError(
                f"{self._path}: ONNX Runtime gave {self._settings.provider} up during a run and went on with "
                f"{', '.join(self._session.get_providers())}; nothing of this run counts"
            )
        return values

    def batches(self, images: NDArray[np.float32], size: int) -> Iterator[DeployedOutputs]:
        """Run many images in batches of at most `size`; the last one may be smaller."""
        for start in range(0, len(images), size):
            yield self.run(images[start : start + size])

    @property
    def provider(self) -> str:
        """Return the short name of the provider that was asked for."""
        return self._settings.provider

    def beside(self, model: onnx.ModelProto) -> Any:
        """Make another session by the same settings on the same provider, of a part of the file.

        Args:
            model: The part, its weights inside; at most 2 GiB.

        Returns:
            An ONNX Runtime session.

        Raises:
            ProviderError: If the provider does not take it, or not all of it where nothing may be left to the CPU.
        """
        import onnxruntime

        options = self._session_options(onnxruntime)
        if self._name != PROVIDERS["CPU"] and not self._settings.allow_fallback and NO_CPU not in self._config:
            options.add_session_config_entry(NO_CPU, "1")
        on_cuda = self._name in (PROVIDERS[provider] for provider in CUDA_PROVIDERS)
        more: dict[str, Any] = {"disabled_optimizers": [REQUANTIZER]} if on_cuda else {}
        if on_cuda:  # as in the whole file: the CPU alone has such nodes
            part = onnx.ModelProto()
            part.CopyFrom(model)
            fold_biases(part)
            model = part
        with captured_output():
            try:
                return onnxruntime.InferenceSession(
                    model.SerializeToString(), options, providers=self._listed, enable_fallback=0, **more
                )
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                raise ProviderError(
                    f"{self._settings.provider} cannot load a part of {self._path} by itself: {first_line(error)}"
                ) from error

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Return the tap and the skip tensors, in the order of `DeployedOutputs`."""
        return (self.entry.tap, *self.entry.skips)

    def _first_run(self, image: NDArray[np.float32]) -> DeployedOutputs:
        """Run blank images; what Python code prints meanwhile belongs to the error, if there is one."""
        printed = io.StringIO()
        try:
            with redirect_stdout(printed):
                return self.run(image)
        except ProviderError as error:
            said = " ".join(printed.getvalue().split())
            if not said:
                raise
            raise type(error)(f"{error.template}; ONNX Runtime printed: {said[:_LONGEST_PRINT]}") from error

    def _blank(self, count: int, image: tuple[int, int, int]) -> NDArray[np.float32]:
        """Return images of nothing: zeros, or where the file takes pixels black ones."""
        if self.entry.input.values == InputValues.NORMALISED:
            return np.zeros((count, *image), np.float32)
        return self._preprocessing.normalise(np.zeros((count, *image[1:], 3), np.uint8))

    def _copy_among(self, copies: PackedCopies | None, original: Original | None) -> PackedCopy | None:
        """Return the packed copy of the file, made or not; None where sessions are not opened from one."""
        if copies is None or not packable(self._settings.provider, self._config, self.entry.tap.dtype):
            return None
        import onnxruntime

        external = self.entry.external if original is None else original.external
        facts = {
            "file": self._file.sha256() if original is None else original.sha256,
            "external": external,
            "config": self._config,
            "threads": self._settings.threads,
            "onnxruntime": onnxruntime.__version__,
        }
        try:
            size = sum(path.stat().st_size for path in (self._path, *(self._path.parent / name for name in external)))
        except OSError:  # the session will say what is missing
            return None
        copy = copies.of(facts)
        copy.begin(size)
        return copy

    def _open_first(self) -> str:
        """Open the session as `_open` does, and have ONNX Runtime write the packed copy meanwhile, if it is to be there."""
        packed = self._packed
        if packed is None or not packed.writing:
            return self._open()
        try:
            fallback = self._open()
        except ProviderError as error:
            packed.abandon()
            fallback = self._open()
            packed.refuse(self._path, f"ONNX Runtime could not write one ({first_line(error)})")
            return fallback
        packed.finish()
        return fallback

    def _open_packed(self) -> bool:
        """Open the session of the packed copy; return False where there is none, or it is not the same bit for bit."""
        packed = self._packed
        if packed is None or not packed.usable:
            return False
        failure, _ = self._make(strict=False, packed=True)
        why = ""
        if failure is not None:
            why = f"ONNX Runtime does not load it ({first_line(failure)})"
        elif any(part.ep_name != self._name for part in self._session.get_provider_graph_assignment_info()):
            why = f"some of it is not on {self._settings.provider}"
        elif not packed.proven:
            try:
                why = "" if packed.prove(self._noticed()) else "it computes other values"
            except QcamError as error:
                why = f"it does not run ({first_line(error)})"
        if why:
            self._session = None
            packed.refuse(self._path, why)
        return not why

    def _noticed(self) -> list[NDArray[Any]]:
        """Return all that the session gives of a few pictures of noise."""
        shown = (self.entry.input.batch or min(_SHOWN, self._settings.batch), *self._preprocessing.crop, 3)
        noise = np.random.default_rng(_SEED).integers(0, 256, shown, np.uint8)
        return self.values(self._preprocessing.normalise(noise), self._outputs)

    def _open(self) -> str:
        """Open the session; return why it is not what was asked for, or an empty text."""
        provider, allowed = self._settings.provider, self._settings.allow_fallback
        try:
            self._name = require_provider(provider)
        except ProviderError as error:
            if not allowed:
                raise
            fallback = error.template
        else:
            settings = self._settings
            self._listed = listed_providers(provider, settings.provider_options, self._file, tf32=settings.tf32)
            fallback = self._open_on_provider()
        if fallback:
            if not allowed:
                raise ProviderError(f"{fallback}; or use {{provider}} CPU, or {{allow_fallback}} to go on all the same")
            self._name = PROVIDERS["CPU"]
            self._listed = [self._name]
            failure, _ = self._make(strict=False)  # what the CPU makes of the file, int32 biases and all
            self._require_loaded(failure)
        elsewhere = self._where = self._elsewhere()
        if elsewhere:
            fallback = self._explain_elsewhere(elsewhere)
            behind = PROVIDERS.get(BEHIND.get(provider, ""), "")
            if {name for _, name in elsewhere.values()} == {behind}:
                # It was listed, by name: not refused, but told like any other provider that was not the first wish.
                return f"{fallback}, which is listed behind it"
            fallback += ": the provider has no kernel for them"
            if not allowed:
                raise ProviderError(f"{fallback}; choose another {{precision}}, or {{allow_fallback}} to go on all the same")
        return fallback

    def _open_on_provider(self) -> str:
        """Open the session on the provider; return why it could not be loaded, or an empty text.

        Raises:
            ProviderError: If the file cannot be loaded.
        """
        provider = self._settings.provider
        wheels = installed_wheels() if provider in CUDA_PROVIDERS else Wheels()
        strict = self._name != PROVIDERS["CPU"] and not self._settings.allow_fallback
        said = preload(provider)
        failure, words = self._make(strict=strict)
        if torch_may_help(provider, words, wheels):
            no_torch = import_torch()
            if no_torch:
                words += f"\n{NO_TORCH}{no_torch}"
            else:
                telling.note(f"{provider}: CUDA's libraries were not found; torch, which brings them, was imported first")
                failure, words = self._make(strict=strict)
        if strict and _LEFT_TO_CPU in words and not provider_failed(words):
            failure, words = self._make(strict=False)  # which nodes are left to the CPU, only a session tells
        if failure is not None and out_of_memory(words):
            raise OutOfMemoryError(
                f"{self._path} does not fit into the memory of {provider}: {first_line(failure)}; take fewer bundles, or leave "
                "a {precision} out"
            ) from failure
        if provider != "CPU" and failure is not None and provider_failed(words):
            return explain_not_loaded(provider, f"{words}\n{said}", wheels)
        self._require_loaded(failure)
        if self._name not in self._session.get_providers():
            return explain_not_loaded(provider, f"{words}\n{said}", wheels)
        return ""

    def _require_loaded(self, failure: Exception | None) -> None:
        """Refuse a file that could not be loaded."""
        if failure is not None:
            raise ProviderError(
                f"{self._settings.provider} cannot load {self._path}: {first_line(failure)}; choose another {{precision}} or "
                "{provider}"
            ) from failure

    def _make(self, *, strict: bool, packed: bool = False) -> tuple[Exception | None, str]:
        """Make the session on the provider.

        Args:
            strict: Whether a node that is left to the CPU is an error; where it is not one here, `_elsewhere` finds it.
            packed: Whether it is made of the packed copy.

        Returns:
            What was raised, if anything; and what was said meanwhile.
        """
        import onnxruntime

        options = self._session_options(onnxruntime)
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = 4  # what fails is raised as well, without colours
        on_cuda = self._name in (PROVIDERS[provider] for provider in CUDA_PROVIDERS)
        folded = folded_copy(self._path) if on_cuda and self._readable else None
        model, self.folded = folded or (str(self._path), 0)
        more = {"disabled_optimizers": [REQUANTIZER]} if on_cuda else {}
        if folded is not None:
            options.add_session_config_entry(EXTERNAL_FOLDER, str(self._path.parent))
        if strict and NO_CPU not in self._config:
            options.add_session_config_entry(NO_CPU, "1")
        if packed and self._packed is not None:
            model = self._packed.graph
            # It is what optimization made; nothing is to be made of it once more.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        elif self._packed is not None:
            self._packed.prepare(options)
        failure = None
        with captured_output() as captured:
            try:
                # Without the fallback of its Python code, which runs on the CPU what failed elsewhere, and says so to nobody.
                self._session = onnxruntime.InferenceSession(model, options, providers=self._listed, enable_fallback=0, **more)
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                failure = error
        return failure, captured.text if failure is None else f"{captured.text}\n{whole_text(failure)}"

    def _session_options(self, onnxruntime: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._settings.threads
        options.use_deterministic_compute = self._settings.on_gpu
        options.enable_profiling = self._profiled
        if self._profiled:
            options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        options.add_session_config_entry(ASSIGNMENT, "1")
        if NO_SPINNING not in self._config:
            options.add_session_config_entry(NO_SPINNING, "1")
        if self._settings.provider == "CPU" and SHARED_ARENA not in self._config and _share_arena():
            options.add_session_config_entry(SHARED_ARENA, "1")
        for key, value in self._config.items():
            given = key in self._settings.config
            told = f"{{session_config}} {key[:80]}" if given else f"the session configuration of {self.entry.name}, {key}"
            if key == ASSIGNMENT:
                raise ProviderError(f"{told}: qcam needs this one itself")
            try:
                options.add_session_config_entry(key, value)
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                raise ProviderError(f"{told}: {first_line(error)}") from error
        return options

    def _elsewhere(self) -> dict[str, tuple[str, str]]:
        """Count the nodes; return those that another provider got, node name → operator and provider."""
        elsewhere = {}
        self._compute_nodes = self._all_nodes = 0
        for subgraph in self._session.get_provider_graph_assignment_info():
            for node in subgraph.get_nodes():
                self._all_nodes += 1
                self._compute_nodes += node.op_type in COMPUTE_OPERATORS
                if subgraph.ep_name != self._name:
                    elsewhere[node.name or f"node {self._all_nodes}"] = (node.op_type, subgraph.ep_name)
        return elsewhere

    def _explain_elsewhere(self, elsewhere: Mapping[str, tuple[str, str]]) -> str:
        """Say how many nodes are not on the provider, and of which operators."""
        operators = Counter(operator for operator, _ in elsewhere.values())
        named = ", ".join(f"{count} {operator}" for operator, count in operators.most_common(_NAMED_OPERATORS))
        more = f" and {len(operators) - _NAMED_OPERATORS} more operators" if len(operators) > _NAMED_OPERATORS else ""
        where = ", ".join(sorted({provider for _, provider in elsewhere.values()}))
        return (
            f"{len(elsewhere)} of {self._all_nodes} nodes of {self._path} are not on {self._settings.provider} but on {where} "
            f"({named}{more}; first: {next(iter(elsewhere))})"
        )


@cache
def _share_arena() -> bool:
    """Make the arena that all sessions of this process on the CPU share; return False if ONNX Runtime will not."""
    import onnxruntime

    arena, default = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    memory = onnxruntime.OrtMemoryInfo("Cpu", arena, 0, default)
    try:
        onnxruntime.create_and_register_allocator(memory, None)
    except Exception:  # its exceptions share no base class; an embedding program may have made one already
        return False
    return True


def _read_nodes(
    path: Path,
    entry: PrecisionEntry | None,
    image: tuple[int, ...],
    model: onnx.ModelProto | None = None,
    judge: Callable[[onnx.ModelProto], None] | None = None,
) -> FileNodes | None:
    """Index the file's nodes; None if it is no ONNX file, which ONNX Runtime says better.

    Args:
        path: The file.
        entry: What the manifest says of it; None for a file that no manifest describes.
        image: Shape of one image as the file takes it.
        model: The file, parsed, with its weights, and held against the manifest if there is one; None: it is read.
        judge: Refuses what the caller cannot use.

    Raises:
        BundleError: If it refers to files that lie outside its folder or that the manifest holds no hash of, if a name in it
            means two things, if it may run for ever or take memory without bounds, or if it is not what the manifest says.
    """
    where = str(path)
    if model is not None:
        refuse_damaged(model, where)
        refuse_unbounded(model, where, image)
        if entry is None:
            refuse_duplicates(model, where)
        if judge is not None:
            judge(model)
        return FileNodes(model)
    try:
        model = parse_onnx(path)
    except BundleError:
        return None
    refuse_no_text(model, where)
    if entry is not None and entry.original is not None and not entry.promised:
        refuse_unhashed(model, where, entry.original.external)
        check_original(model, entry, where)
    elif entry is None:
        external_files(model, path.parent, where)
        refuse_duplicates(model, where)
    else:
        refuse_unhashed(model, where, entry.external)
        load_external(model, path.parent, where, largest=_SCALAR)
        check_agreement(model, entry, where)
    refuse_damaged(model, where)
    refuse_unbounded(model, where, image)
    if judge is not None:
        judge(model)
    return FileNodes(model)


def _names_fit(outputs: int, names: int) -> bool:
    """Tell whether class names are as many as the outputs; one output is a score that decides between two."""
    return names == outputs or (outputs, names) == (1, 2)
