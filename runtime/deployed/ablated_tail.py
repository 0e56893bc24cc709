"""The tail of a deployed file: from the tap's codes to the logits, cut out of the file and run in sessions of its own.

What a channel of the CAM layer contributes to a score can be asked of the deployed arithmetic itself: the tail runs again with
the channel's codes at the code of 0, and nothing in front of the tap is computed again. A graph of its own may be optimized
otherwise than the whole, so nothing is taken for granted: on pictures of noise the tail's logits have to be the whole run's,
bit for bit.

Where the tap's readers are one mean over all positions, a removed channel is a 0 behind that mean as well. Then the tail may
start there, with vectors in place of maps; on the same pictures that, too, has to give the same logits bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from qcam.common.errors import BundleError, ProviderError, QcamError, first_line
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.bundle import PrecisionEntry
from qcam.runtime.deployed.provider_options import ENGINES
from qcam.runtime.deployed.session import DeployedModel
from qcam.runtime.graph import Graph, attribute

#: How many pictures of noise the tail is shown, the seed of the noise, and how many channels are removed of each.
_SHOWN, _SEED, _REMOVED = 4, 2020, 8
#: Rows that run at a time: at most so many, and so many bytes of float32.
_ROWS, _BYTES = 1024, 32 << 20


@dataclass(frozen=True)
class _Start:
    """Where a tail begins.

    Attributes:
        name: Of the tensor.
        zero: What stands for 0 there.
    """

    name: str
    zero: int


class AblatedTail:
    """The tail of one precision, in sessions by the settings of its deployed run.

    Attributes:
        behind_pool: Whether removed channels are computed behind the mean over all positions.
        seconds: What one image took with all of its channels removed one by one, estimated from a few of them.
        channels: How many channels the tap has.
    """

    def __init__(self, session: DeployedModel, model: onnx.ModelProto, preprocessing: Preprocessing) -> None:
        """Cut the tail out, and prove it.

        Args:
            session: The deployed run, open.
            model: The file that it runs, with its weights.
            preprocessing: How pictures are normalised.

        Raises:
            QcamError: If the tail cannot be cut out, or its logits are not the whole run's.
            ProviderError: If the provider does not take it.
        """
        entry = session.entry
        self._where = f"Ablation-CAM of {entry.name}"
        self._entry = entry
        if session.provider in ENGINES:
            raise QcamError(
                f"{self._where}: an engine of {session.provider} for a part of the file may compute otherwise than the "
                "whole file's; choose another {cam}, or another {provider}"
            )
        self._tap = _Start(entry.tap.output, entry.tap.zero_point)
        self._pooled = _behind_pool(Graph(model), entry)
        self._whole = self._pool = self._behind = None
        self.open(session, model)
        self._prove(session, preprocessing)

    @property
    def behind_pool(self) -> bool:
        """Tell whether removed channels are computed behind the mean over all positions."""
        return self._pooled is not None

    def close(self) -> None:
        """Give the sessions and their memory back; what was proven stays."""
        self._whole = self._pool = self._behind = None

    def open(self, session: DeployedModel, model: onnx.ModelProto) -> None:
        """Make the sessions, again if they were closed; arguments and errors as of the constructor."""
        inputs = [self._tap.name, *(skip.output for skip in self._entry.skips)]
        self._whole = self._session(session, model, inputs, self._entry.logits)
        if self._pooled is not None:
            self._pool = self._session(session, model, inputs, self._pooled.name)
            self._behind = self._session(session, model, [self._pooled.name], self._entry.logits)

    def logits(self, tap: NDArray[Any], skips: Sequence[NDArray[Any]] = ()) -> NDArray[np.float32]:
        """Run the tail.

        Args:
            tap: The tap's values as the deployed run gives them, batch × channels × height × width.
            skips: Likewise the skip tensors'.

        Returns:
            float32, batch × classes.

        Raises:
            ProviderError: If the provider fails.
        """
        return self._run(self._whole, (tap, *skips))

    def scores(
        self, tap: NDArray[Any], skips: Sequence[NDArray[Any]], columns: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the explained class's score, and the score without each channel.

        Args:
            tap: As in `logits`.
            skips: As in `logits`.
            columns: Where in the logits each image's score stands, batch.

        Returns:
            The score with every channel, as often as there are channels, and the score without channel k: float64, each
            batch × channels. Both of one channel come out of one run. Where a channel is 0 throughout they are equal.

        Raises:
            ProviderError: If the provider fails.
        """
        start, session, values = self._tap, self._whole, tap
        if self._pooled is not None:
            start, session, values = self._pooled, self._behind, self._run(self._pool, (tap, *skips))
            skips = ()
        found = [
            scores_without(
                values[index : index + 1],
                [skip[index : index + 1] for skip in skips],
                start.zero,
                lambda *rows, column=column: self._run(session, rows)[:, column],
                self._entry.input.batch,
            )
            for index, column in enumerate(columns)
        ]
        return np.stack([whole for whole, _ in found]), np.stack([without for _, without in found])

    def _prove(self, session: DeployedModel, preprocessing: Preprocessing) -> None:
        noise = np.random.default_rng(_SEED).integers(0, 256, (_SHOWN, *preprocessing.crop, 3), np.uint8)
        outputs = session.run(preprocessing.normalise(noise))
        logits = self.logits(outputs.tap, outputs.skips)
        if not np.array_equal(logits, outputs.logits, equal_nan=True):
            unequal = int((logits != outputs.logits).any(axis=1).sum())
            raise QcamError(
                f"{self._where}: the part of the file from the tap on, run on its own, does not give the logits of the whole "
                f"run ({unequal} of {_SHOWN} pictures of noise); choose another {{cam}}"
            )
        self.channels = outputs.tap.shape[1]
        if self._pooled is not None and not self._same_behind(self._pooled, outputs.tap, outputs.skips):
            self._pooled = self._pool = self._behind = None
        timed = min(self.channels, rows_at_a_time(outputs.tap, self._entry.input.batch) - 1)
        some = np.full_like(outputs.tap[:1], self._tap.zero)
        some[:, :timed] += 1  # none of them is left out because it is 0
        begun = time.perf_counter()
        self.scores(some, [skip[:1] for skip in outputs.skips], np.zeros(1, np.int64))
        self.seconds = (time.perf_counter() - begun) * self.channels / timed

    def _same_behind(self, start: _Start, tap: NDArray[Any], skips: Sequence[NDArray[Any]]) -> bool:
        """Tell whether removed channels are the same logits behind the mean as in front of it, bit for bit."""
        pooled = self._run(self._pool, (tap, *skips))
        for index in range(len(tap)):
            chosen = np.flatnonzero((tap[index] != self._tap.zero).any(axis=(1, 2)))
            chosen = chosen[np.linspace(0, len(chosen) - 1, min(_REMOVED, len(chosen))).astype(int)]
            of_tap = _rows_without(tap[index : index + 1], chosen, self._tap.zero)
            of_pool = _rows_without(pooled[index : index + 1], chosen, start.zero)
            others = [np.repeat(skip[index : index + 1], len(of_tap), axis=0) for skip in skips]
            if not np.array_equal(
                self._run(self._whole, (of_tap, *others)), self._run(self._behind, (of_pool,)), equal_nan=True
            ):
                return False
        return True

    def _session(self, session: DeployedModel, model: onnx.ModelProto, inputs: Sequence[str], output: str) -> Any:
        try:
            return session.beside(cut_out(model, inputs, output, self._entry))
        except BundleError as error:
            raise QcamError(f"{self._where}: {error.template}; choose another {{cam}}") from error

    def _run(self, session: Any, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Run a session on any number of rows; a file of a fixed batch as often as it takes."""
        names = [given.name for given in session.get_inputs()]
        told, found = self._entry.input, []
        for part in told.chunks(len(values[0])):
            fed = {name: told.filled(np.ascontiguousarray(value[part])) for name, value in zip(names, values, strict=True)}
            try:
                found.append(session.run(None, fed)[0][: part.stop - part.start])
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                raise ProviderError(
                    f"{self._where}: its tail failed with {len(values[0])} rows: {first_line(error)}; choose another {{cam}}"
                ) from error
        return found[0] if len(found) == 1 else np.concatenate(found)


def scores_without(
    values: NDArray[Any],
    skips: Sequence[NDArray[Any]],
    zero: float,
    score: Callable[..., NDArray[np.floating]],
    batch: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return an image's score with every channel, and without each.

    Args:
        values: 1 × channels × …, codes or floats.
        skips: What else the tail reads, each 1 × ….
        zero: What stands for 0 in the values.
        score: Returns the scores of rows: of (values, *skips), each rows × ….
        batch: How many rows run at a time, no more and no fewer; None for any number.

    Returns:
        The score with every channel, from the run that the score without channel k is from, and that one: float64, channels.
    """
    channels = values.shape[1]
    altered = np.flatnonzero((values[0].reshape(channels, -1) != zero).any(axis=1))
    step = rows_at_a_time(values, batch) - 1
    whole, without = np.empty(channels), np.empty(channels)
    # A row alone may go through another kernel than many: what is subtracted from each other runs together.
    for begin in range(0, max(len(altered), 1), step):
        chosen = altered[begin : begin + step]
        rows = _rows_without(values, chosen, zero)
        found = score(rows, *(np.repeat(skip, len(rows), axis=0) for skip in skips)).astype(np.float64)
        if begin == 0:
            whole[:] = without[:] = found[0]
        whole[chosen], without[chosen] = found[0], found[1 : 1 + len(chosen)]
    return whole, without


def rows_at_a_time(values: NDArray[Any], batch: int | None) -> int:
    """Return how many rows run at a time, the unaltered one among them: at least 2; arguments as of `scores_without`."""
    return max(2, batch or min(_ROWS, _BYTES // max(4 * values[:1].size, 1)))


def _rows_without(values: NDArray[Any], channels: NDArray[np.intp], zero: float) -> NDArray[Any]:
    """Return values as they are, and without each of some channels; at least 2 rows."""
    rows = np.repeat(values, max(2, 1 + len(channels)), axis=0)
    rows[np.arange(1, 1 + len(channels)), channels] = zero
    return rows


def cut_out(model: onnx.ModelProto, inputs: Sequence[str], output: str, entry: PrecisionEntry) -> onnx.ModelProto:
    """Return the part of a model that computes one tensor from others, with the weights that it needs.

    Args:
        model: The model.
        inputs: What it begins with.
        output: What it ends in.
        entry: The precision, for the types of tap and skip tensors.

    Raises:
        BundleError: If the tensor does not follow from these inputs alone.
    """
    graph = Graph(model)
    needed = graph.upstream([output], stop=inputs)
    if graph.image_input in needed:
        raise BundleError(f"{output} of {entry.file} does not follow from {', '.join(inputs)} alone")
    if inputs[0] not in needed:
        raise BundleError(f"{output} of {entry.file} does not depend on {inputs[0]}")
    nodes = [node for node in model.graph.node if any(name in needed and name not in inputs for name in node.output)]
    kinds = {tap.output: helper.np_dtype_to_tensor_dtype(np.dtype(tap.dtype)) for tap in (entry.tap, *entry.skips)}
    told = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    part.graph.name = "tail"
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(tensor for name, tensor in graph.initializers.items() if name in needed)
    for name in inputs:
        if name in needed:
            kind = kinds.get(name) or _kind_behind(graph, name)
            part.graph.input.append(told.get(name) or helper.make_tensor_value_info(name, kind, None))
    part.graph.output.append(told.get(output) or helper.make_tensor_value_info(output, _kind_behind(graph, output), None))
    return part


def _kind_behind(graph: Graph, name: str) -> int:
    """Return the type of a tensor: that of a quantizer's zero point, else float32."""
    node = graph.producer.get(name)
    if node is None or node.op_type != "QuantizeLinear":
        return int(onnx.TensorProto.FLOAT)
    zero_point = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(np.uint8) if zero_point is None else zero_point.dtype))


def _behind_pool(graph: Graph, entry: PrecisionEntry) -> _Start | None:
    """Return what is behind the mean over all positions that alone reads the tap; None if there is no such mean."""
    name = entry.tap.output
    readers = graph.readings(name)
    if entry.tap.dtype != "float32":
        if [node.op_type for node in readers] != ["DequantizeLinear"]:
            return None
        name = readers[0].output[0]
        readers = graph.readings(name)
    if entry.skips or len(readers) != 1 or not _is_global_mean(readers[0], graph):
        return None
    pooled = readers[0].output[0]
    behind = graph.readings(pooled)
    if [node.op_type for node in behind] != ["QuantizeLinear"]:
        return _Start(pooled, 0)
    # ONNX Runtime may make one kernel of mean and quantizer: the tail then starts at its codes.
    quantizer = behind[0]
    zero_point = (
        graph.constant(quantizer.input[2]) if len(quantizer.input) > 2 and quantizer.input[2] else np.zeros((), np.uint8)
    )
    return None if zero_point is None or zero_point.size != 1 else _Start(quantizer.output[0], int(zero_point.item()))


def _is_global_mean(node: onnx.NodeProto, graph: Graph) -> bool:
    if node.op_type == "GlobalAveragePool":
        return True
    if node.op_type != "ReduceMean":
        return False
    axes: Any = attribute(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = graph.constant(node.input[1])
    return axes is not None and sorted(int(axis) % 4 for axis in axes) == [2, 3]
