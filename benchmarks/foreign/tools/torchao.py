"""torchao's PT2E quantization, exported by PyTorch's own ONNX exporter."""

from __future__ import annotations

from typing import Any

from job import Job

NAME = "torchao PT2E"
REQUIREMENTS = ["torchao==0.18.0", "onnx==1.23.2", "onnxscript==0.7.2", "torch==2.13.0"]


def _quantize(job: Job, quantizer: Any) -> None:
    import torch
    from torch_network import TorchNetwork
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    pictures = torch.from_numpy(job.pictures)
    example = (pictures[:2],)
    dynamic = ({0: torch.export.Dim("batch")},)
    prepared = prepare_pt2e(torch.export.export(TorchNetwork(job.model), example, dynamic_shapes=dynamic).module(), quantizer)
    with torch.no_grad():
        for i in range(len(pictures)):
            prepared(pictures[i : i + 1])
        converted = move_exported_model_to_eval(convert_pt2e(prepared))
        torch.onnx.export(
            converted, example, str(job.output), dynamo=True, dynamic_shapes=dynamic, external_data=False,
            input_names=["images"], output_names=["logits"],
        )  # fmt: skip
    _without_traces(job)


def _without_traces(job: Job) -> None:
    import onnx

    model = onnx.load(str(job.output))
    for node in model.graph.node:
        # The exporter notes which line of which file on this machine a node comes from
        kept = [entry for entry in node.metadata_props if "stack_trace" not in entry.key]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(model, str(job.output))


def _x86(job: Job) -> None:
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    _quantize(job, quantizer)


def _xnnpack(job: Job) -> None:
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    quantizer = XNNPACKQuantizer()
    quantizer.set_global(get_symmetric_quantization_config())
    _quantize(job, quantizer)


def _xnnpack_channels(job: Job) -> None:
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    quantizer = XNNPACKQuantizer()
    quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
    _quantize(job, quantizer)


VARIANTS = {
    "x86inductor": ("X86InductorQuantizer, its default configuration", _x86),
    "xnnpack": ("XNNPACKQuantizer, get_symmetric_quantization_config()", _xnnpack),
    "xnnpackperchannel": ("XNNPACKQuantizer, get_symmetric_quantization_config(is_per_channel=True)", _xnnpack_channels),
}
