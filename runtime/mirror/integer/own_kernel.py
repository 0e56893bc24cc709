"""Functions that ONNX Runtime's own kernel computes, where it computes the same on every processor.

Approximations of the error function, of exp and tanh are polynomials of ONNX Runtime's, with the same steps on x86 and ARM64
and at every place of a tensor; powers are products, or the C library's, which computes them in float64. All are held against
the kernels of all three families by tests: so the kernel on this processor gives what another processor's does, and there is
nothing to write again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper

from qcam.runtime.kernels import KernelFamily
from qcam.runtime.mirror.integer.kernel import straight_through
from qcam.runtime.mirror.operators.elementwise import power as simulated_power
from qcam.runtime.mirror.parallel import across, laid_out_as, memory, parts_of
from qcam.runtime.mirror.registry import MICROSOFT, exact_operator

#: Operator set of the sessions: what is registered here means the same in all of its versions.
_OPSET = 21


@exact_operator("Gelu", versions=(20,), approximate=b"tanh")  # which ARM64 rounds otherwise
@exact_operator("Gelu", versions=(1,), domain=MICROSOFT)
def gelu(x: torch.Tensor, *, approximate: str = "none", family: KernelFamily) -> torch.Tensor:
    """Return x · Φ(x), as ONNX Runtime approximates it; the gradient, as of those below, is the true one's."""
    return _approximated("Gelu", partial(F.gelu, approximate=approximate), x, approximate=approximate)


@exact_operator("Erf", versions=(9, 13))
def erf(x: torch.Tensor, *, family: KernelFamily) -> torch.Tensor:
    """The error function, as ONNX Runtime approximates it."""
    return _approximated("Erf", torch.erf, x)


@exact_operator("Tanh", versions=(6, 13))
def tanh(x: torch.Tensor, *, family: KernelFamily) -> torch.Tensor:
    """The hyperbolic tangent, as ONNX Runtime approximates it."""
    return _approximated("Tanh", torch.tanh, x)


@exact_operator("Exp", versions=(6, 13))
def exp(x: torch.Tensor, *, family: KernelFamily) -> torch.Tensor:
    """The exponential function, as ONNX Runtime approximates it."""
    return _approximated("Exp", torch.exp, x)


@exact_operator("Pow", versions=(7, 12, 13, 15))
def power(a: torch.Tensor, b: torch.Tensor, *, family: KernelFamily) -> torch.Tensor:
    """Return a to the power of b, in the type of a."""
    if a.dtype != torch.float32:
        other: torch.Tensor = simulated_power(a, b)
        return other
    given = {"x": a.detach().cpu().numpy(), "exponent": b.detach().cpu().numpy()}
    session = _session("Pow", (), helper.np_dtype_to_tensor_dtype(given["exponent"].dtype))
    exact = torch.from_numpy(session.run(["y"], given)[0]).to(a.device)
    return straight_through(simulated_power(a, b), exact) if a.requires_grad or b.requires_grad else exact


def _approximated(
    operator: str, true: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, **attributes: str
) -> torch.Tensor:
    if x.dtype != torch.float32:
        return true(x)
    exact = of_own_kernel(operator, x, **attributes)
    return straight_through(true(x), exact) if x.requires_grad else exact


def of_own_kernel(operator: str, x: torch.Tensor, **attributes: str) -> torch.Tensor:
    """Return what ONNX Runtime's CPU kernel of an operator makes of each value.

    Args:
        operator: One that takes each value for itself.
        x: float32, of any shape and layout.
        attributes: Of the operator.
    """
    session = _session(operator, tuple(sorted(attributes.items())))
    given = x.detach().cpu()
    values = memory(given)
    if values is None:
        given = given.contiguous()
        values = given.view(-1)
    result, written = laid_out_as(given, torch.float32)

    def work(part: slice) -> None:
        (found,) = session.run(["y"], {"x": values[part].numpy()})
        written[part] = torch.from_numpy(found)

    if len(values):
        across(parts_of(len(values), 1, values.device), work)
    return result.to(x.device)


@lru_cache(maxsize=16)
def _session(operator: str, attributes: tuple[tuple[str, str], ...], exponent: int | None = None) -> Any:
    """Return a session of one operator, of one thread; with an exponent of a type (ONNX's number), values have any shape."""
    shape = ["values"] if exponent is None else None
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    if exponent is not None:
        inputs.append(helper.make_tensor_value_info("exponent", exponent, None))
    graph = helper.make_graph(
        [helper.make_node(operator, [given.name for given in inputs], ["y"], **dict(attributes))],
        operator,
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
