"""Microsoft's Olive: its pass for static quantization, run as a workflow."""

from __future__ import annotations

from typing import Any

from job import Job

NAME = "Olive"
REQUIREMENTS = ["olive-ai==0.13.0", "requests", "onnxruntime==1.32.0", "torch==2.13.0"]


def _quantize(job: Job, **options: Any) -> None:
    import shutil

    from olive.data.registry import Registry
    from olive.workflows import run

    name, pictures = job.input_name, job.pictures

    class Pictures:
        def __getitem__(self, index: int) -> Any:
            if index >= len(pictures):
                raise IndexError(index)
            return {name: pictures[index]}, 0

        def __len__(self) -> int:
            return len(pictures)

    @Registry.register_dataset("pictures")
    def _pictures(**_: Any) -> Pictures:
        return Pictures()

    folder = job.output.parent / "olive"
    run(
        {
            "input_model": {"type": "ONNXModel", "model_path": str(job.model)},
            "data_configs": [
                {
                    "name": "calibration",
                    "load_dataset_config": {"type": "pictures"},
                    "pre_process_data_config": {"type": "skip_pre_process"},
                    "post_process_data_config": {"type": "skip_post_process"},
                    "dataloader_config": {"type": "default_dataloader", "batch_size": 1},
                }
            ],
            "passes": {"quantization": {"type": "OnnxStaticQuantization", "data_config": "calibration", **options}},
            "output_dir": str(folder),
            "cache_dir": str(job.output.parent / "cache"),
        }
    )
    (written,) = folder.rglob("*.onnx")
    shutil.move(written, job.output)


def _variant(words: str, **options: Any) -> tuple[str, Any]:
    return words, lambda job: _quantize(job, **options)


VARIANTS = {
    "default": _variant("OnnxStaticQuantization"),
    "u8s8": _variant("OnnxStaticQuantization, activation_type=uint8", activation_type="uint8"),
    "a16w8": _variant("OnnxStaticQuantization, activation_type=uint16", activation_type="uint16"),
    "qoperator": _variant(
        "OnnxStaticQuantization, quant_format=QOperator, activation_type=uint8",
        quant_format="QOperator",
        activation_type="uint8",
    ),
}
