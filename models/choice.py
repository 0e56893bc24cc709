"""Which of a file's weights are meant: a search for the one reading under which names fit the model.

Names are freed of what training tools put between (`module`, `_orig_mod`), and a prefix is looked for under which every
parameter of the model is found. Where two fit and their values differ, nobody but the caller can choose.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from qcam.common.errors import WeightsError
from qcam.models.beside import Surroundings, followable, head_beside, shares_enough
from qcam.models.checkpoints import Checkpoint
from qcam.models.heads import Head, find_head, put_head
from qcam.models.weights import StateDict, counts_batches, refuse_odd_entries

#: Names that tools put between a module and its parent; nothing of a network's own is called so.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
#: What tools leave among the weights and no network needs, by the last part of its name.
_EXTRAS = frozenset({"n_averaged", "total_ops", "total_params", "num_batches_tracked"})
#: Modules that only training uses, by their name in the model; a file may hold them or not.
_TRAINING_ONLY = ("aux1", "aux2", "AuxLogits")


@dataclass
class Reading:
    """Which of a file's weights are meant.

    Attributes:
        state: The model's own names → tensors.
        versions: The model's module paths → versions.
        key: What was in front of the names: a wrapper, a prefix, or both; empty if nothing was.
        dropped: Parts of names that were taken out.
        renamed: The file's name of a module → the model's.
        left: Names in the file that were not taken.
        assumed: What the file cannot tell and was taken to be so, in sentences.
        not_applied: Names among those left that may change pictures or logits.
    """

    state: StateDict
    versions: dict[str, dict[str, Any]]
    key: str = ""
    dropped: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    not_applied: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest records; empty where the file was a plain state dict."""
        value: dict[str, Any] = {}
        if self.key:
            value["key"] = self.key
        if self.dropped:
            value["dropped"] = list(self.dropped)
        if self.renamed:
            value["renamed"] = dict(self.renamed)
        if self.left:
            value["left"] = grouped(self.left, self.key)
        if self.assumed:
            value["assumed"] = list(self.assumed)
        if self.not_applied:
            value["not_applied"] = list(self.not_applied)
        return value

    def told(self, origin: str) -> str:
        """Return one sentence about it, empty where the file was a plain state dict."""
        parts = [f"{len(self.state)} tensors taken" + (f" from {self.key!r}" if self.key else "")]
        if self.dropped:
            parts.append(f"{', '.join(self.dropped)} dropped from names")
        parts += [f"{old} taken as {new}" for old, new in self.renamed.items()]
        parts += self.assumed
        if self.left:
            groups = grouped(self.left, self.key)
            shown = ", ".join(f"{name} ({count})" for name, count in list(groups.items())[:6])
            parts.append(f"left: {shown}" + (f" and {len(groups) - 6} more" if len(groups) > 6 else ""))
        return f"{origin}: {'; '.join(parts)}" if len(parts) > 1 or self.key else ""


@dataclass(frozen=True)
class _Name:
    """A name in the file: as it stands there, and freed of wrappers."""

    given: str
    cleaned: str


@dataclass(frozen=True)
class _Fit:
    """How well the names below a prefix fit."""

    prefix: str
    state: StateDict
    given: dict[str, str]
    missing: list[str]
    unknown: list[str]
    renamed: dict[str, str]


def choose_weights(
    model: torch.nn.Module, checkpoint: Checkpoint, *, key: str | None = None, classes: int | None = None
) -> Reading:
    """Find the weights of a model in a checkpoint, and give the model the head that they have.

    Args:
        model: The model; its head becomes that of the file where the number of classes differs.
        checkpoint: The file.
        key: What stands in front of the weights' names, where the file holds several sets of them.
        classes: Number of outputs that the caller wants, to hold the file's against; None takes the file's.

    Returns:
        The weights under the model's own names, and what was done to get there.

    Raises:
        WeightsError: If no reading fits, or several do and their values differ.
    """
    own_names = list(model.state_dict())
    names = _cleaned(checkpoint, own_names, key)
    own_parts = {part for name in own_names for part in name.split(".")}
    head = find_head(model)
    exact = key is not None and key.endswith(".")
    fits = [_fit(model, checkpoint, names, prefix, head) for prefix in ([""] if exact else _prefixes(own_names, names))]
    if head is not None and all(fit.missing for fit in fits):
        fits = [_with_head_beside(fit, checkpoint, names, head) for fit in fits]
    complete = [fit for fit in fits if not fit.missing]
    if not complete:
        best = max(fits, key=lambda fit: (len(fit.state), -len(fit.prefix)), default=None)
        raise _misfit(checkpoint, best, head)
    # Averages of the parameters alone are another set, too.
    parameters = {name for name, _ in model.named_parameters()}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    partly = [
        fit
        for fit in fits
        if fit.missing and (not parameters & set(fit.missing) or shares_enough(fit.state, shapes, parameters))
    ]
    chosen = _the_one([*complete, *partly], checkpoint)
    if exact:
        chosen.unknown[:] = [name for name in chosen.unknown if name.split(".")[0] in {own.split(".")[0] for own in own_names}]
    if chosen.unknown:
        raise _misfit(checkpoint, chosen, head)
    taken = set(chosen.given.values())
    left = tuple(name for name in (*checkpoint.tensors, *checkpoint.others) if name not in taken)
    first = next(iter(chosen.given.items()))
    dropped = {part for given in taken for part in given.split(".") if part in _WRAPPERS - own_parts}
    reading = Reading(
        chosen.state,
        _versions_of(checkpoint, chosen.prefix, key, own_parts),
        _without_wrappers(_label(*first, chosen.renamed)),
        tuple(sorted(dropped)),
        chosen.renamed,
        left,
    )
    if key is None:
        compared = {source for fit in [*complete, *partly] for source in fit.given.values()}
        rest = {name.given: checkpoint.tensors[name.given] for name in names if name.given not in compared}
        (way_out,) = followable([reading.key])
        beside = Surroundings(checkpoint.origin, rest, way_out)
        beside.refuse_averages(model.parameters())
        if head is not None and f"{head.path}.weight" in reading.state:
            beside.refuse_layers_on_top(head, int(reading.state[f"{head.path}.weight"].shape[0]))
        reading.not_applied = beside.not_applied()
    if head is not None:
        reading.assumed = tuple(_assumed_of_head(head, reading))
    _settle_training_only(model, reading)
    if head is not None:
        refuse_odd_entries(reading.state, checkpoint.origin)  # a head is put in by what its tensors hold
        put_head(model, head, reading.state, checkpoint.origin, classes)
    return reading


def _cleaned(checkpoint: Checkpoint, own: Sequence[str], key: str | None) -> list[_Name]:
    """Return the file's names, below the key if one is given, freed of wrappers that the model itself does not have."""
    parts = {part for name in own for part in name.split(".")}
    drop = _WRAPPERS - parts
    names = []
    for name in checkpoint.tensors:
        rest = _below(name, key)
        if rest is None or (key is not None and key.endswith(".") and rest.split(".")[0] in drop):
            continue
        names.append(_Name(name, ".".join(part for part in rest.split(".") if part not in drop)))
    if key and not names:
        tops = ", ".join(dict.fromkeys(name.split(".")[0] for name in checkpoint.tensors))
        raise WeightsError(f"{{weights_key}} {key}: {checkpoint.origin} has no weights below it; it holds {tops[:300]}")
    return names


def _below(name: str, key: str | None) -> str | None:
    """Return what of a name stands behind the key, None if it does not stand there."""
    start = (key or "").rstrip(".")
    if not start:
        return name
    return name[len(start) + 1 :] if name.startswith(f"{start}.") else None


def _with_head_beside(fit: _Fit, checkpoint: Checkpoint, names: Sequence[_Name], head: Head) -> _Fit:
    """Complete a backbone by the head that lies beside it; return it as it is if that is not what it lacks."""
    if fit.unknown or not fit.prefix or not all(name.startswith(f"{head.path}.") for name in fit.missing):
        return fit
    outside = {name.given: checkpoint.tensors[name.given] for name in names if not name.cleaned.startswith(fit.prefix)}
    found = head_beside(outside, head, checkpoint.origin)
    if not found:
        return fit
    state = fit.state | {ours: checkpoint.tensors[theirs] for theirs, ours in found.items()}
    given = fit.given | {ours: theirs for theirs, ours in found.items()}
    layer = next(iter(found)).rpartition(".")[0]
    return _Fit(fit.prefix, state, given, [], [], fit.renamed | {layer: head.path})


def _assumed_of_head(head: Head, reading: Reading) -> list[str]:
    """Say what of a head stands in no file and was taken to be so."""
    sentences = [
        f"{theirs} is taken for the whole head, with nothing before it but Dropout: another layer without weights would be lost"
        for theirs, ours in reading.renamed.items()
        if ours == head.path
    ]
    if head.bias and f"{head.path}.weight" in reading.state and f"{head.path}.bias" not in reading.state:
        sentences.append(f"{head.path} has no bias in the file and is taken to have none")
    return sentences


def _prefixes(own: Sequence[str], names: Sequence[_Name]) -> list[str]:
    """Return what may stand in front of the model's names: whatever does in front of one of them, the shortest first."""
    anchors = [name for name in own if not counts_batches(name)]
    anchors = [*anchors[:3], *anchors[len(anchors) // 2 : len(anchors) // 2 + 2]]
    found = {""}
    for anchor in anchors:
        for name in names:
            if name.cleaned.endswith(f".{anchor}"):
                found.add(name.cleaned[: -len(anchor)])
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _fit(model: torch.nn.Module, checkpoint: Checkpoint, names: Sequence[_Name], prefix: str, head: Head | None) -> _Fit:
    """Hold the names below a prefix against the model's."""
    state: StateDict = {}
    given: dict[str, str] = {}
    twice: dict[str, list[str]] = {}
    for name in names:
        if name.cleaned.startswith(prefix):
            rest = name.cleaned[len(prefix) :]
            if rest in state:
                twice.setdefault(rest, [given[rest]]).append(name.given)
                continue
            state[rest], given[rest] = checkpoint.tensors[name.given], name.given
    own, below, aliases = own_view(model, state, _versions_of(checkpoint, prefix, None, set()))
    given = {aliases.get(rest, rest): source for rest, source in given.items()}
    for rest, sources in twice.items():
        if aliases.get(rest, rest) in own and not _equal([checkpoint.tensors[source] for source in sources]):
            raise _ambiguous(checkpoint, [_label(rest, source, {}) for source in sources], sources)
    renamed: dict[str, str] = {}
    if head is not None:
        for theirs, ours in head.found_elsewhere(below, own):
            renamed[theirs.rpartition(".")[0]] = head.path
            below[ours] = below.pop(theirs)
            given[ours] = given.pop(theirs)
    held = {given[name] for name in below if name in own}
    holders = {checkpoint.holders.get(name, "") for name in held}
    tops = {name.split(".")[0] for name in own}
    missing = [name for name in own if name not in below and _needed(name) and not (head and head.may_lack(name, below))]
    unknown = [
        name
        for name in below
        if name not in own and name.rpartition(".")[2] not in _EXTRAS and not _training_only(name)
        and (not holders or checkpoint.holders.get(given[name], "") in holders or name.split(".")[0] in tops)
    ]  # fmt: skip
    return _Fit(
        prefix,
        {name: tensor for name, tensor in below.items() if name in own},
        {name: source for name, source in given.items() if name in own},
        missing,
        unknown,
        renamed,
    )


def own_view(
    model: torch.nn.Module, state: StateDict, versions: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, torch.Size], StateDict, dict[str, str]]:
    """Show weights as the model itself would read them: some classes rename what older versions of them had saved.

    Args:
        model: The model; it is not touched.
        state: Names → tensors.
        versions: Module path → version.

    Returns:
        The model's names and shapes, the weights under the names that it reads, and the given names of those renamed.
    """
    reading = [(path, module) for path, module in model.named_modules() if _renames(module)]
    if not reading:
        return {name: tensor.shape for name, tensor in model.state_dict().items()}, dict(state), {}
    memo: dict[int, Any] = {id(value): value.to("meta") for value in [*model.parameters(), *model.buffers()]}
    memo = {key: torch.nn.Parameter(value, False) if value.is_floating_point() else value for key, value in memo.items()}
    skeleton = copy.deepcopy(model, memo)
    below: StateDict = dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path, module in list(skeleton.named_modules()):
            if _renames(module):
                version = dict(versions.get(path) or _version_of(module, below))
                at = f"{path}." if path else ""
                module._load_from_state_dict(below, at, version, False, [], [], [])
    places = {id(tensor): name for name, tensor in state.items()}
    aliases = {places[id(tensor)]: name for name, tensor in below.items() if places.get(id(tensor), name) != name}
    return {name: tensor.shape for name, tensor in skeleton.state_dict().items()}, below, aliases


def _renames(module: torch.nn.Module) -> bool:
    """Tell whether a network's own class reads weights in a way of its own (torch's classes add counters, no more)."""
    return any("_load_from_state_dict" in base.__dict__ for base in type(module).__mro__ if not _of_torch(base))


def _of_torch(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "torch"


def _version_of(module: torch.nn.Module, state: StateDict) -> dict[str, Any]:
    """Tell the version of a class's layout that weights without a record of it have, by their shapes."""
    if type(module).__name__ == "MNASNet":
        # Version 1 had a stem of fixed width, version 2 scales it; wherever that makes no difference it makes none.
        first, own = state.get("layers.0.weight"), module.state_dict()["layers.0.weight"]
        return {"version": 2 if first is None or first.shape == own.shape else 1}
    return {}


def as_versioned(model: torch.nn.Module, reading: Reading) -> None:
    """Make a model what its class makes of weights of an older version, and complete the record of versions by shapes."""
    for path, module in list(model.named_modules()):
        if _renames(module):
            version = reading.versions.get(path) or _version_of(module, reading.state)
            if version:
                reading.versions[path] = version
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    module._load_from_state_dict({}, f"{path}." if path else "", dict(version), False, [], [], [])


def _versions_of(checkpoint: Checkpoint, prefix: str, key: str | None, own_parts: set[str]) -> dict[str, dict[str, Any]]:
    """Return module path → version, the paths freed of wrappers and prefix like the names."""
    drop = _WRAPPERS - own_parts
    versions: dict[str, dict[str, Any]] = {}
    for path, version in checkpoint.versions.items():
        rest = f"{path}." if path else ""
        below = _below(rest, key)
        if below is None:
            continue
        rest = below
        cleaned = "".join(f"{part}." for part in rest.split(".") if part and part not in drop)
        if cleaned.startswith(prefix):
            versions.setdefault(cleaned[len(prefix) :].rstrip("."), version)
    return versions


def _needed(name: str) -> bool:
    return not counts_batches(name) and not _training_only(name)


def _training_only(name: str) -> bool:
    return name.split(".")[0] in _TRAINING_ONLY


def _settle_training_only(model: torch.nn.Module, reading: Reading) -> None:
    """Take modules off that only training uses, where the file does not hold them, or others."""
    own = model.state_dict()
    for part in _TRAINING_ONLY:
        names = [name for name in own if name.split(".")[0] == part]
        if not names:
            continue
        if all(name in reading.state and reading.state[name].shape == own[name].shape for name in names if _is_weight(name)):
            continue
        held = [name for name in names if reading.state.pop(name, None) is not None]
        setattr(model, part, None)
        if hasattr(model, "aux_logits"):
            model.__dict__["aux_logits"] = False
        if held:
            reading.left = (*reading.left, part)


def _is_weight(name: str) -> bool:
    return not counts_batches(name)


def _label(name: str, source: str, renamed: Mapping[str, str]) -> str:
    """Return what stands in front of the model's name in the file's: `state_dict.model` for `state_dict.model.conv.weight`."""
    for old, new in renamed.items():
        if name.startswith(f"{new}."):
            name = old + name[len(new) :]
    parts, own = source.split("."), name.split(".")
    while own and parts:
        part = parts.pop()
        if part == own[-1]:
            own.pop()
        elif part not in _WRAPPERS:
            break
    return ".".join(parts)


def _without_wrappers(label: str) -> str:
    """Take the wrappers off the end of a label; they are told apart."""
    parts = label.split(".")
    while parts and parts[-1] in _WRAPPERS:
        parts.pop()
    return ".".join(parts)


def _the_one(fits: Sequence[_Fit], checkpoint: Checkpoint) -> _Fit:
    """Return the reading that fits; of several with equal values the one of the shortest names."""
    first = fits[0]
    for other in fits[1:]:
        shared = [name for name in first.state if name in other.state and not counts_batches(name)]
        if not all(_equal([first.state[name], other.state[name]]) for name in shared):
            labels = []
            for fit in fits:
                name, source = next(iter(fit.given.items()))
                labels.append(_label(name, source, fit.renamed))
            raise _ambiguous(checkpoint, labels, [next(iter(fit.given.values())) for fit in fits])
    return first


def _equal(tensors: Sequence[torch.Tensor]) -> bool:
    first = tensors[0]
    try:
        return all(one is first or (one.dtype == first.dtype and torch.equal(one, first)) for one in tensors[1:])
    except (RuntimeError, NotImplementedError):  # kinds of tensors that cannot be compared
        return False


def _ambiguous(checkpoint: Checkpoint, labels: Sequence[str], names: Sequence[str]) -> WeightsError:
    listed = followable(labels)
    if len(listed) == 1:
        return WeightsError(
            f"{checkpoint.origin} holds one parameter twice, and the two differ: {' and '.join(names[:2])}; "
            "save the one that is meant"
        )
    return WeightsError(
        f"{checkpoint.origin} holds {len(listed)} sets of weights that fit the model and differ: {', '.join(listed)}; "
        f"choose one with {{weights_key}}, as in {{weights_key}} {listed[0]}"
    )


def _misfit(checkpoint: Checkpoint, fit: _Fit | None, head: Head | None) -> WeightsError:
    where = f"weights from {checkpoint.origin} do not fit the model"
    if fit is None:
        return WeightsError(f"{where}: none of its names is one of the model's")
    for name in fit.missing:
        if name in checkpoint.others:
            return WeightsError(
                f"{checkpoint.origin} holds no state dict (names and tensors): {name} is of type {checkpoint.others[name]}; "
                "save one with torch.save(model.state_dict(), …)"
            )
    told = [f"{len(fit.missing)} missing (first: {fit.missing[0]})"] if fit.missing else []
    told += [f"{len(fit.unknown)} unknown (first: {fit.unknown[0]})"] if fit.unknown else []
    text = f"{where}: parameters {', '.join(told)}"
    headless = head is not None and fit.missing and all(name.startswith(f"{head.path}.") for name in fit.missing)
    if head is not None and headless and not fit.unknown:
        text += f"; the network fits, but the file holds no head for it ({head.path}): give the weights of the whole classifier"
    elif head is not None and headless:
        text += (
            f"; the network fits but its head {head.path}, which must be one {head.kind} layer of {head.features} features "
            "(Dropout before it does not matter): what lies between several layers stands in no weights file"
        )
    elif fit.missing and len(fit.missing) <= 10 and fit.unknown:
        text += "; choose the model that the weights were trained in"
    return WeightsError(text)


def grouped(names: Iterable[str], key: str = "") -> dict[str, int]:
    """Return names by what they are, with how many there are.

    Args:
        names: Names in the file.
        key: What stands in front of those that were taken.

    Returns:
        The last part of known extras, of others what they begin with up to the first part that is not the key's → how many.
    """
    front = key.split(".") if key else []
    groups: dict[str, int] = {}
    for name in names:
        last = name.rpartition(".")[2]
        parts = name.split(".")
        same = next((index for index, (one, other) in enumerate(zip(front, parts, strict=False)) if one != other), None)
        depth = min(len(front), len(parts) - 1) if same is None else same
        group = last if last in _EXTRAS else ".".join(parts[: depth + 1])
        groups[group] = groups.get(group, 0) + 1
    return groups
