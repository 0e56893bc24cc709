"""Espressif's esp-ppq: a graph quantizer with a policy for each target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from job import Job

NAME = "esp-ppq"
REQUIREMENTS = ["esp-ppq==1.3.12", "onnxruntime==1.32.0", "torch==2.13.0"]


def _for_target(name: str) -> Callable[[Job], None]:
    def quantize(job: Job) -> None:
        import torch
        from esp_ppq.api import export_ppq_graph, quantize_onnx_model
        from esp_ppq.core import TargetPlatform

        pictures = [torch.from_numpy(job.pictures[i : i + 1]) for i in range(len(job.pictures))]
        graph = quantize_onnx_model(
            onnx_import_file=str(_of_opset_13(job)),
            calib_dataloader=pictures,
            calib_steps=len(pictures),
            input_shape=list(pictures[0].shape),
            platform=getattr(TargetPlatform, name),
            device="cpu",
            verbose=0,
        )
        export_ppq_graph(graph, platform=TargetPlatform.ONNXRUNTIME, graph_save_to=str(job.output))

    return quantize


def _of_opset_13(job: Job) -> Path:
    """Write the network as opset 13 had it: what the tool exports is called that, whatever it was given."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(job.model))
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "ReduceMean" and len(node.input) == 2:
            axes = [int(axis) for axis in constants[node.input.pop()]]
            node.attribute.append(helper.make_attribute("axes", axes))
        # What opsets 14 and 18 added to Reshape and ReduceMean: nothing is left out that says anything
        plain = node.op_type == "Reshape" and 0 not in constants.get(node.input[1], [0])
        for item in [item for item in node.attribute if item.name in ("allowzero", "noop_with_empty_axes")]:
            if item.i == 0 or plain:
                node.attribute.remove(item)
    model.opset_import[0].version = min(model.opset_import[0].version, 13)
    written = job.output.with_name("opset13.onnx")
    onnx.save(model, str(written))
    return written


VARIANTS = {
    name.lower().replace("_", ""): (f"platform={name}, exported for ONNXRUNTIME", _for_target(name))
    for name in ("ESPDL_INT8", "ESPDL_INT16", "TRT_INT8", "PPL_CUDA_INT8", "OPENVINO_INT8", "PPL_DSP_INT8")
}
TINY_ONLY = ["pplcudaint8", "openvinoint8", "ppldspint8"]
