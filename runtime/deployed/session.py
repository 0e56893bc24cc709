"""One precision of a bundle in an ONNX Runtime session: logits and tap codes, strictly on the provider asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from qcam.common.arguments import truth, whole
from qcam.common.errors import BundleError, ProviderError, first_line
from qcam.common.files import sha256_file
from qcam.runtime.agreement import check_agreement, refuse_duplicates
from qcam.runtime.bundle import Bundle, PrecisionEntry, Tap
from qcam.runtime.deployed.filenodes import FileNodes
from qcam.runtime.deployed.listed import SessionFile, listed_providers
from qcam.runtime.deployed.placement import Placement, read_profile
from qcam.runtime.deployed.provider_options import BEHIND, ENGINES, NVIDIA, checked_options, device_index, options_in_effect
from qcam.runtime.deployed.providers import PROVIDERS, captured_output, explain_not_loaded, require_provider
from qcam.runtime.external import external_files, load_external, parse_onnx, refuse_unhashed
from qcam.runtime.tables import COMPUTE_OPERATORS

#: Makes a session tell which provider each node was assigned to.
_OWN_CONFIG = "session.record_ep_graph_assignment_info"
#: Makes a session's threads rest when a run ends: other sessions and the gradients of the tail need the cores then.
_NO_SPINNING = "session.force_spinning_stop"
#: Makes sessions share one arena of memory: they run one after another, and each would keep its largest batch's for itself.
_SHARED_ARENA = "session.use_env_allocators"
#: Most bytes of a constant that is read from another file to hold the file against the manifest: no scale has more.
_SCALAR = 16


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
    """A session over one precision of a bundle.

    Attributes:
        entry: The precision.
        placement: Which kernels run where, from a profiled run of one blank image.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        settings: SessionSettings,
        *,
        file: Path | None = None,
        entry: PrecisionEntry | None = None,
        model: onnx.ModelProto | None = None,
    ) -> None:
        """Make the session and prove that it is what was asked for.

        Args:
            bundle: The bundle.
            precision: The precision.
            settings: How sessions are made.
            file: Another ONNX file to run in its place; it is not held against the manifest.
            entry: What that file's outputs mean, where they differ from the bundle's.
            model: What is run, parsed before (`load_onnx`, `read_onnx`); None: the file is parsed here.

        Raises:
            BundleError: If the file is not what the manifest says.
            ProviderError: If the provider cannot be had, cannot run the file, or runs only a part of it.
        """
        self.entry: PrecisionEntry = entry or bundle.precision(precision)
        self._path = file or bundle.path(precision)
        self._settings = settings
        _refuse_what_cannot_work(self.entry, settings)
        nodes = _read_nodes(self._path, self.entry if file is None else None, model)
        self._folder = tempfile.TemporaryDirectory(prefix="qcam-profile-")
        height, width = bundle.preprocessing.crop
        image = (bundle.preprocessing.channels, height, width)
        fallback = self._open(
            SessionFile(
                sha256=lambda: self.entry.sha256 if file is None else sha256_file(self._path),
                quantized=self.entry.name != "f32",
                inputs={} if nodes is None else nodes.inputs,
                image=image,
                batch=settings.batch,
            )
        )
        self._input = self._session.get_inputs()[0].name
        taps = (self.entry.tap, *self.entry.skips)
        self._outputs = [self.entry.logits, *(tap.output for tap in taps)]
        self._bind = settings.on_gpu if settings.io_binding is None else settings.io_binding
        # An engine for one image says nothing of another: where there are engines, the batch that will run is proven.
        proven = settings.batch if settings.provider in ENGINES else 1
        blank = self.run(np.zeros((proven, *image), np.float32))
        if blank.logits.ndim != 2 or not _names_fit(blank.logits.shape[1], len(bundle.classes)):
            raise BundleError(f"{self._path} returns logits of shape {blank.logits.shape} for {len(bundle.classes)} classes")
        for value, tap in zip((blank.tap, *blank.skips), taps, strict=True) if file is None else ():
            if value.dtype != tap.dtype:
                raise BundleError(
                    f"{self._path} returns {tap.output} as {value.dtype}, bundle.json says {tap.dtype}; export the bundle again"
                )
        with self._folder:
            profile = Path(self._session.end_profiling())
            placement = read_profile(profile, self._compute_nodes, fallback, nodes)
        each = tuple(replace(node, macs=node.macs // proven) for node in placement.nodes)
        self.placement: Placement = replace(placement, nodes=each)

    def run(self, images: NDArray[np.float32]) -> DeployedOutputs:
        """Run one batch of any size.

        Args:
            images: float32, batch × channels × height × width, preprocessed.

        Raises:
            ProviderError: If the provider fails while running (out of memory, a kernel that is missing).
        """
        values = self.values(images, self._outputs)
        return DeployedOutputs(values[0], values[1], tuple(values[2:]))

    def values(self, images: NDArray[np.float32], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Run one batch and return the named graph outputs; arguments and errors as in `run`."""
        if self._settings.provider in ENGINES and len(images) > self._settings.batch:
            raise ProviderError(
                f"{self._path} was built for batches of at most {self._settings.batch} on {self._settings.provider}, and was "
                f"given {len(images)}: another engine may compute otherwise; open it with that batch"
            )
        try:
            if self._bind:
                binding = self._session.io_binding()
                binding.bind_cpu_input(self._input, images)
                for name in outputs:
                    binding.bind_output(name, "cpu")
                self._session.run_with_iobinding(binding, self._run_options)
                values: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
            else:
                values = self._session.run(list(outputs), {self._input: images}, self._run_options)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            reason = first_line(error)
            raise ProviderError(
                f"{self._path} failed on {self._settings.provider} with a batch of {len(images)}: {reason}; "
                "try a smaller {batch_size}"
            ) from error
        return values

    def batches(self, images: NDArray[np.float32], size: int) -> Iterator[DeployedOutputs]:
        """Run many images in batches of at most `size`; the last one may be smaller."""
        for start in range(0, len(images), size):
            yield self.run(images[start : start + size])

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Return the tap and the skip tensors, in the order of `DeployedOutputs`."""
        return (self.entry.tap, *self.entry.skips)

    def _open(self, file: SessionFile) -> str:
        """Open the session; return why it is not what was asked for, or an empty text."""
        provider = self._settings.provider
        fallback = ""
        try:
            name = require_provider(provider)
        except ProviderError as error:
            if not self._settings.allow_fallback:
                raise
            name, fallback = PROVIDERS["CPU"], error.template
        settings = self._settings
        listed = [name] if fallback else listed_providers(provider, settings.provider_options, file, tf32=settings.tf32)
        import onnxruntime

        options = self._session_options(onnxruntime)
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = 4  # what fails is raised as well, without colours
        with captured_output() as messages:
            try:
                self._session = onnxruntime.InferenceSession(str(self._path), options, providers=listed)
                failure = None
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                failure = error
        if failure is not None:
            reason = first_line(failure)
            raise ProviderError(f"{provider} cannot load {self._path}: {reason}; choose another {{precision}} or {{provider}}")
        if name not in self._session.get_providers():
            fallback = explain_not_loaded(provider, "".join(messages))
        elsewhere = self._compute_elsewhere(name)
        behind = PROVIDERS.get(BEHIND.get(provider, ""), "")
        if not fallback and elsewhere and set(elsewhere.values()) == {behind}:
            # It was listed, by name: not refused, but told like any other provider that was not the first wish.
            return (
                f"{len(elsewhere)} of {self._compute_nodes} Conv/Gemm/MatMul nodes of {self._path} are not on {provider} "
                f"but on {behind}, which is listed behind it (first: {next(iter(elsewhere))})"
            )
        if not fallback and elsewhere:
            fallback = (
                f"{len(elsewhere)} of {self._compute_nodes} Conv/Gemm/MatMul nodes of {self._path} are not on {provider} "
                f"but on {', '.join(sorted(set(elsewhere.values())))} (first: {next(iter(elsewhere))}): the provider has no "
                "kernel for them; choose another {precision}, or {allow_fallback} to go on all the same"
            )
        if fallback and not self._settings.allow_fallback:
            raise ProviderError(fallback)
        return fallback

    def _session_options(self, onnxruntime: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._settings.threads
        options.use_deterministic_compute = self._settings.on_gpu
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        options.add_session_config_entry(_OWN_CONFIG, "1")
        if _NO_SPINNING not in self._settings.config:
            options.add_session_config_entry(_NO_SPINNING, "1")
        if self._settings.provider == "CPU" and _SHARED_ARENA not in self._settings.config and _share_arena():
            options.add_session_config_entry(_SHARED_ARENA, "1")
        if self.entry.tap.dtype == "int8":
            # Signed 8-bit activations are otherwise only partly run by integer kernels.
            options.add_session_config_entry("session.qdqisint8allowed", "1")
        for key, value in self._settings.config.items():
            if key == _OWN_CONFIG:
                raise ProviderError(f"{{session_config}} {key}: qcam needs this one itself")
            try:
                options.add_session_config_entry(key, value)
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                raise ProviderError(f"{{session_config}} {key[:80]}: {first_line(error)}") from error
        return options

    def _compute_elsewhere(self, wanted: str) -> dict[str, str]:
        """Count the compute nodes; return those that another provider got, node name → provider."""
        elsewhere = {}
        self._compute_nodes = 0
        for subgraph in self._session.get_provider_graph_assignment_info():
            for node in subgraph.get_nodes():
                if node.op_type in COMPUTE_OPERATORS:
                    self._compute_nodes += 1
                    if subgraph.ep_name != wanted:
                        elsewhere[node.name] = subgraph.ep_name
        return elsewhere


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


def _read_nodes(path: Path, entry: PrecisionEntry | None, model: onnx.ModelProto | None = None) -> FileNodes | None:
    """Index the file's nodes; None if it is no ONNX file, which ONNX Runtime says better.

    Args:
        path: The file.
        entry: What the manifest says of it; None for a file that no manifest describes.
        model: The file, parsed, with its weights, and held against the manifest if there is one; None: it is read.

    Raises:
        BundleError: If it refers to files that lie outside its folder or that the manifest holds no hash of, if a name in it
            means two things, or if it is not what the manifest says.
    """
    if model is not None:
        if entry is None:
            refuse_duplicates(model, str(path))
        return FileNodes(model)
    try:
        model = parse_onnx(path)
    except BundleError:
        return None
    where = str(path)
    if entry is None:
        external_files(model, path.parent, where)
        refuse_duplicates(model, where)
    else:
        refuse_unhashed(model, where, entry.external)
        load_external(model, path.parent, where, largest=_SCALAR)
        check_agreement(model, entry, where)
    return FileNodes(model)


def _names_fit(outputs: int, names: int) -> bool:
    """Tell whether class names are as many as the outputs; one output is a score that decides between two."""
    return names == outputs or (outputs, names) == (1, 2)


def _refuse_what_cannot_work(entry: PrecisionEntry, settings: SessionSettings) -> None:
    """Refuse what a provider is documented not to load, before it crashes on it."""
    if settings.provider not in ENGINES or entry.name == "f32":
        return
    if entry.name == "int16":
        raise ProviderError(f"{settings.provider} has no 16-bit quantization; leave int16 out with {{precision}} f32,int8")
    if not entry.quantization.activation_symmetric:
        raise ProviderError(
            f"{settings.provider} takes symmetric activations only (zero point 0), this bundle has scheme "
            f"{entry.quantization.scheme}; export it again with {{qcam-export}} {{scheme}} s8s8"
        )
