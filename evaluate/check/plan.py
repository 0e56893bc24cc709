"""What is judged: which precisions of which bundles, and under which names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from qcam.common.errors import QcamError
from qcam.evaluate.check.gates import CODE_GATES
from qcam.evaluate.check.options import CheckOptions, require_one
from qcam.runtime.bundle import Bundle, ordered_precisions
from qcam.runtime.deployed import nothing_fits, unfit_precisions


def plan(bundles: Sequence[Bundle], options: CheckOptions) -> list[tuple[Bundle, str]]:
    """Return what to judge, before anything runs: a wish that cannot be granted is told at once, not after minutes.

    Bundles of one model (exported with other options) get their folders into their names, to be told apart in every result.

    Args:
        bundles: The bundles; one that is given twice is judged once.
        options: What is asked for.

    Returns:
        Bundle and precision, in the order of the tables.

    Raises:
        QcamError: If a bundle lacks a precision, the provider runs none of those of a whole bundle, no gate can be judged, or a
            deployed file comes with several bundles.
    """
    require_one(options, len(bundles))
    unique = list({bundle.folder.resolve(): bundle for bundle in bundles}.values())
    models = Counter(bundle.model_id for bundle in unique)
    folders = Counter((bundle.model_id, bundle.folder.resolve().name) for bundle in unique)
    todo = []
    for bundle in unique:
        wanted = options.precisions or ((_judged_against(bundle),) if options.deployed is not None else ())
        folder = bundle.folder.resolve()
        label = folder.name if folders[bundle.model_id, folder.name] == 1 else str(bundle.folder)
        named = bundle if models[bundle.model_id] == 1 else replace(bundle, model_id=f"{bundle.model_id} ({label})")
        unfit = {} if wanted else left_out(bundle, options)
        precisions = ordered_precisions(wanted or [entry.name for entry in bundle.precisions if entry.name not in unfit])
        if unfit and not precisions:
            raise nothing_fits(bundle.folder, unfit, options.settings.provider)
        todo += [(named, bundle.precision(name).name) for name in precisions]
    if not todo:
        raise QcamError("no bundle to judge; make one with {qcam-export}")
    nothing = sorted(CODE_GATES.intersection(options.gates))
    if nothing and all(precision == "f32" for _, precision in todo):
        raise QcamError(f"gate {nothing[0]}: f32 has no codes, there is nothing to judge; choose another precision")
    return todo


def _judged_against(bundle: Bundle) -> str:
    """Return the precision that a deployed file is judged against where none was asked for: int8, or the only quantized one.

    Raises:
        QcamError: If that is not one.
    """
    quantized = [entry.name for entry in bundle.precisions if entry.name != "f32"]
    if "int8" in quantized or len(quantized) == 1:
        return "int8" if "int8" in quantized else quantized[0]
    raise QcamError(
        f"{bundle.folder} holds no int8, only {', '.join(entry.name for entry in bundle.precisions)}; say with {{precision}} "
        "which of them the deployed file is judged against"
    )


def left_out(bundle: Bundle, options: CheckOptions) -> dict[str, str]:
    """Return the precisions that nobody asked for by name and the provider does not run itself, with the reasons."""
    if options.precisions or options.deployed is not None:
        return {}
    return unfit_precisions(bundle, options.settings.provider, allow_fallback=options.settings.allow_fallback)
