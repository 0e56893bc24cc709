"""Espressif's esp-ppq: a graph quantizer with a policy for each target."""

from __future__ import annotations

from collections.abc import Callable

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
            onnx_import_file=str(job.model),
            calib_dataloader=pictures,
            calib_steps=len(pictures),
            input_shape=list(pictures[0].shape),
            platform=getattr(TargetPlatform, name),
            device="cpu",
            verbose=0,
        )
        export_ppq_graph(graph, platform=TargetPlatform.ONNXRUNTIME, graph_save_to=str(job.output))

    return quantize


VARIANTS = {
    name.lower().replace("_", ""): (f"platform={name}, exported for ONNXRUNTIME", _for_target(name))
    for name in ("ESPDL_INT8", "ESPDL_INT16", "TRT_INT8", "PPL_CUDA_INT8", "OPENVINO_INT8", "PPL_DSP_INT8")
}
TINY_ONLY = ["pplcudaint8", "openvinoint8", "ppldspint8"]
