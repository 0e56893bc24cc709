import pytest
import torch

from qcam.runtime.mirror import compiled

torch.set_num_threads(1)


@pytest.fixture(params=[True, False], ids=["compiled", "not compiled"])
def with_loops(request, monkeypatch) -> bool:
    """Whether loops are compiled, or PyTorch's operators compute the same: both ways, one after the other."""
    if not request.param:
        monkeypatch.setattr(compiled, "loops", lambda: None)
    else:
        assert compiled.loops() is not None, "numba does not work here"
    return request.param
