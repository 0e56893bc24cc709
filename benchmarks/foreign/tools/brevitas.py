"""Brevitas: PyTorch modules quantized layer by layer, exported as QCDQ (quantize, clip, dequantize)."""

from __future__ import annotations

from typing import Any

from job import Job

NAME = "Brevitas"
REQUIREMENTS = ["brevitas==0.13.4", "onnxoptimizer==0.4.2", "onnx==1.23.2", "onnxscript==0.7.2", "torch==2.13.0"]


def _quantize(job: Job, target: str) -> None:
    import torch
    from brevitas.export import export_onnx_qcdq
    from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
    from brevitas.graph.quantize import preprocess_for_quantize, quantize
    from brevitas.graph.target.flexml import preprocess_for_flexml_quantize, quantize_flexml
    from torch_network import TorchNetwork

    pictures = torch.from_numpy(job.pictures)
    model: Any = TorchNetwork(job.model)
    with torch.no_grad():
        if target == "flexml":
            model = quantize_flexml(preprocess_for_flexml_quantize(model, pictures[:1]))
        else:
            model = quantize(preprocess_for_quantize(model))
        model.eval()
        for mode in (calibration_mode, bias_correction_mode):
            with mode(model):
                for i in range(len(pictures)):
                    model(pictures[i : i + 1])
        # Biases are quantized; the exporter by torch.export refuses that
        export_onnx_qcdq(
            model, args=pictures[:1], export_path=str(job.output), dynamo=False, opset_version=17,
            input_names=["images"], output_names=["logits"], dynamic_axes={"images": {0: "batch"}},
        )  # fmt: skip


VARIANTS = {
    "default": ("brevitas.graph.quantize.quantize", lambda job: _quantize(job, "layers")),
    "flexml": ("brevitas.graph.target.flexml.quantize_flexml", lambda job: _quantize(job, "flexml")),
}
