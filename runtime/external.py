"""Weights that an ONNX file keeps in files beside it: where a file may refer to some, whether they may be read, their bytes.

An ONNX file can refer to other files wherever it holds a tensor: in initializers, in attributes of nodes (a Constant's value),
in subgraphs, in local functions. Each such file has to lie in the ONNX file's own folder, and each tensor inside its file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from qcam.common.errors import BundleError, first_line
from qcam.common.files import sha256_file

#: What to do about a file whose external data cannot be used.
_NEXT = "save the file anew, with its weights inside or in files beside it"
_DECIMAL = re.compile(r"[0-9]{1,19}")
_DRIVE = re.compile(r"[A-Za-z]:")
#: ONNX Runtime takes a location with this in it for an address in its own memory.
_MEMORY = "_ORT_MEM_ADDR_"
#: Types of less than a byte, and their bits; the last byte is filled up.
_PACKED = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}
#: Fields that hold a tensor's values inside the file.
_INSIDE = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


@dataclass(frozen=True)
class ExternalTensor:
    """A tensor whose values lie in another file.

    Attributes:
        tensor: The tensor.
        label: What messages call it.
        location: Its file, relative to the ONNX file's folder, with forward slashes.
        offset: Its first byte there.
        size: How many bytes its shape and type take.
        length: How many bytes the file says it has; None if it does not say.
    """

    tensor: TensorProto
    label: str
    location: str
    offset: int
    size: int
    length: int | None


def every_tensor(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Yield every tensor that a model holds, wherever it stands, with what messages call it."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        for attribute in function.attribute_proto:
            yield from _of_attribute(attribute, f"of function {function.name}")
        for node in function.node:
            yield from _of_node(node)
    for training in model.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def external_tensors(model: ModelProto, where: str) -> Iterator[ExternalTensor]:
    """Yield the tensors whose values lie in other files, without a look at those files.

    Args:
        model: The model.
        where: What messages call its file.

    Raises:
        BundleError: If one refers to a place outside the ONNX file's folder, or says what cannot be.
    """
    for label, tensor in every_tensor(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            yield _external(label, tensor, where)


def external_files(model: ModelProto, folder: Path, where: str | None = None) -> dict[str, Path]:
    """Return the files that a model refers to.

    Args:
        model: The model.
        folder: The folder of its ONNX file.
        where: What messages call that file; by default they name the folder.

    Returns:
        Location → path; the location is relative to the folder and has forward slashes.

    Raises:
        BundleError: If one lies outside the folder, also through links, is missing or no regular file, or does not hold a
            tensor that it is said to hold.
    """
    where = where or f"the ONNX file in {folder}"
    files: dict[str, Path] = {}
    sizes: dict[str, int] = {}
    for item in external_tensors(model, where):
        if item.location not in files:
            files[item.location], sizes[item.location] = _confined(item, folder, where)
        _refuse_wrong_size(item, sizes[item.location], where)
    return files


def load_external(model: ModelProto, folder: Path, where: str | None = None, *, largest: int | None = None) -> None:
    """Read the values that lie in other files into the model.

    Args:
        model: The model; changed: its tensors then hold their values.
        folder: The folder of its ONNX file.
        where: What messages call that file; by default they name the folder.
        largest: Tensors of more bytes stay where they are; None: read all.

    Raises:
        BundleError: As in `external_files`; if a file cannot be read.
    """
    where = where or f"the ONNX file in {folder}"
    files = external_files(model, folder, where)
    for item in external_tensors(model, where) if files else ():
        if largest is not None and item.size > largest:
            continue
        try:
            with files[item.location].open("rb") as stream:
                stream.seek(item.offset)
                data = stream.read(item.size)
        except OSError as error:
            raise BundleError(f"{where}: cannot read weight {item.label} from {item.location}: {first_line(error)}") from error
        if len(data) != item.size:
            raise BundleError(f"{where}: {item.location} became shorter while weight {item.label} was read; {_NEXT}")
        item.tensor.raw_data = data
        item.tensor.data_location = TensorProto.DEFAULT
        del item.tensor.external_data[:]


def external_hashes(path: Path) -> dict[str, str]:
    """Return what a manifest records of the files that an ONNX file refers to.

    Args:
        path: The ONNX file.

    Returns:
        Location relative to the file's folder → SHA-256, sorted; empty if all weights lie inside.

    Raises:
        BundleError: If it is no ONNX file, or as in `external_files`.
    """
    files = external_files(parse_onnx(path), path.parent, str(path))
    try:
        return {location: sha256_file(files[location]) for location in sorted(files)}
    except OSError as error:
        raise BundleError(f"cannot read the external weights of {path}: {first_line(error)}") from error


def refuse_unhashed(model: ModelProto, where: str, hashed: Mapping[str, str]) -> None:
    """Refuse a model that refers to other files than its manifest holds hashes of.

    Args:
        model: The model.
        where: What messages call its file.
        hashed: Location → SHA-256, from the manifest.

    Raises:
        BundleError: If it refers to a file without a hash, or to none that a hash stands for.
    """
    found = {item.location: item.label for item in external_tensors(model, where)}
    for location, label in found.items():
        if location not in hashed:
            raise BundleError(
                f"{where} keeps weight {label} in {location}, of which bundle.json has no SHA-256; "
                "make the bundle again with all its files, or save the file with its weights inside"
            )
    for location in hashed:
        if location not in found:
            raise BundleError(
                f"bundle.json has a SHA-256 of {location}, which {where} does not refer to; make the bundle again"
            )


def parse_onnx(path: Path, where: str | None = None) -> ModelProto:
    """Parse an ONNX file; what it keeps in other files stays there.

    Args:
        path: The file.
        where: What messages call it; by default the path.

    Raises:
        BundleError: If it is no ONNX file.
    """
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises its own types, by version
        raise BundleError(f"cannot read {where or path} as an ONNX file: {first_line(error)}") from error


def normal_location(location: object) -> str:
    """Return a location as it is written in manifests, or why it is refused.

    Args:
        location: What a file or a manifest says.

    Returns:
        The location with forward slashes, without empty and `.` parts.

    Raises:
        ValueError: If it is no text, names nothing, leads out of the folder, or means different places on different systems.
    """
    try:
        if not isinstance(location, str):
            raise ValueError("it is no text")
        location.encode()
    except UnicodeError as error:
        raise ValueError("it is no text") from error
    path = PurePosixPath(location)
    if path.is_absolute() or ".." in path.parts or "\\" in location or _DRIVE.match(location) or _MEMORY in location:
        raise ValueError("it leads out of the folder")
    if not path.name or not location.isprintable():
        raise ValueError("it is no name of a file")
    return path.as_posix()


def _of_graph(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for sparse in graph.sparse_initializer:
        yield from _of_sparse(sparse, sparse.values.name)
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: NodeProto) -> Iterator[tuple[str, TensorProto]]:
    for attribute in node.attribute:
        yield from _of_attribute(attribute, f"of {node.op_type} node {node.name or ', '.join(map(str, node.output))}")


def _of_attribute(attribute: AttributeProto, label: str) -> Iterator[tuple[str, TensorProto]]:
    """Yield what an attribute holds, whatever type it claims to be of."""
    if attribute.HasField("t"):
        yield label, attribute.t
    if attribute.HasField("g"):
        yield from _of_graph(attribute.g)
    if attribute.HasField("sparse_tensor"):
        yield from _of_sparse(attribute.sparse_tensor, label)
    for tensor in attribute.tensors:
        yield label, tensor
    for graph in attribute.graphs:
        yield from _of_graph(graph)
    for sparse in attribute.sparse_tensors:
        yield from _of_sparse(sparse, label)


def _of_sparse(sparse: SparseTensorProto, label: str) -> Iterator[tuple[str, TensorProto]]:
    yield label, sparse.values
    yield f"{label} (indices)", sparse.indices


def _external(label: str, tensor: TensorProto, where: str) -> ExternalTensor:
    """Read what a tensor says about its file."""
    said = {item.key: item.value for item in tensor.external_data}
    if len(said) != len(tensor.external_data):
        raise BundleError(f"{where}: weight {label} says twice where it lies; {_NEXT}")
    if any(len(getattr(tensor, field)) for field in _INSIDE):
        raise BundleError(f"{where}: weight {label} has values inside the file and in {said.get('location')!r}; {_NEXT}")
    try:
        location = normal_location(said.get("location", ""))
    except ValueError as error:
        found = said.get("location", "")
        if "leads out" in str(error):
            message = f"{where}: weight {label} would be read from outside the folder ({found}); {_NEXT}"
        else:
            message = f"{where}: weight {label} lies at {found!r}: {error}; {_NEXT}"
        raise BundleError(message) from error
    offset, length = (_number(said, key, label, where) for key in ("offset", "length"))
    return ExternalTensor(tensor, label, location, offset or 0, _bytes_of(tensor, label, where), length)


def _number(said: Mapping[str, object], key: str, label: str, where: str) -> int | None:
    value = said.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise BundleError(f"{where}: weight {label} has {key} {value!r}, which is no number of bytes; {_NEXT}")
    return int(value)


def _bytes_of(tensor: TensorProto, label: str, where: str) -> int:
    """Return how many bytes a tensor's values take."""
    try:
        kind = TensorProto.DataType.Name(tensor.data_type)
        bits = _PACKED.get(kind) or onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
    except (KeyError, ValueError):
        kind, bits = str(tensor.data_type), 0
    if not bits or kind == "STRING" or any(size < 0 for size in tensor.dims):
        raise BundleError(
            f"{where}: weight {label} of type {kind}, shape {list(tensor.dims)} cannot lie in another file; {_NEXT}"
        )
    return int(prod(tensor.dims) * bits + 7) // 8


def _confined(item: ExternalTensor, folder: Path, where: str) -> tuple[Path, int]:
    """Return the path of a tensor's file, and the file's size."""
    path = folder / item.location
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{where}: weight {item.label} would be read from outside the folder ({item.location}); {_NEXT}")
        if not path.exists():
            raise BundleError(
                f"{where}: {item.location}, which holds weight {item.label}, is missing; put it beside the ONNX file"
            )
        if not path.is_file():
            raise BundleError(f"{where}: {item.location}, which should hold weight {item.label}, is no regular file; {_NEXT}")
        return path, path.stat().st_size
    except (OSError, ValueError, RuntimeError) as error:  # names too long, links in a circle
        raise BundleError(f"{where}: cannot read weight {item.label} from {item.location}: {first_line(error)}") from error


def _refuse_wrong_size(item: ExternalTensor, available: int, where: str) -> None:
    if item.length is not None and item.length != item.size:
        raise BundleError(
            f"{where}: weight {item.label} has {item.length} bytes in {item.location}, "
            f"its shape and type take {item.size}; {_NEXT}"
        )
    if item.offset + item.size > available:
        raise BundleError(
            f"{where}: weight {item.label} ends at byte {item.offset + item.size} of {item.location}, "
            f"which has {available}; {_NEXT}"
        )
