import pytest

from qcam.common.errors import BundleError
from qcam.evaluate.check.checker import Checker


def test_a_file_without_any_of_the_tensors_cannot_be_judged(tiny_bundle):
    class Nothing:
        tensors, missing, taps, provider = (), ("a", "b"), (), "CPU"

    with pytest.raises(BundleError, match=r"none of the 2 quantized tensors of .*int8\.onnx is in the file that was run"):
        Checker(tiny_bundle, "int8", Nothing())
