"""AMD Quark for ONNX: its ready-made configurations."""

from __future__ import annotations

from collections.abc import Callable

from job import Job, Reader

NAME = "AMD Quark"
REQUIREMENTS = ["amd-quark==0.13", "onnxruntime==1.32.0", "torch==2.13.0"]
#: Tried on the tiny network only: a minute each on the others.
MORE = ("S8S8_AAWS", "U8S8_AAWS", "U8U8_AAWA", "U16S8_AAWS", "S16S8_ASWS")


def _ready_made(name: str) -> Callable[[Job], None]:
    def quantize(job: Job) -> None:
        from onnxruntime.quantization import CalibrationDataReader
        from quark.onnx import ModelQuantizer
        from quark.onnx.quantization.config import Config, get_default_config

        class Pictures(Reader, CalibrationDataReader):  # type: ignore[misc]
            pass

        quantizer = ModelQuantizer(Config(global_quant_config=get_default_config(name)))
        quantizer.quantize_model(str(job.model), str(job.output), Pictures(job))

    return quantize


VARIANTS = {
    name.lower().replace("_", ""): (f"get_default_config({name})", _ready_made(name))
    for name in ("A8W8", "A16W8", "XINT8", *MORE)
}
TINY_ONLY = [name.lower().replace("_", "") for name in MORE]
