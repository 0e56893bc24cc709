import pytest

from qcam.common.errors import QcamError
from qcam.evaluate.check.gates import CODE_GATES, GATES, default_gates, require_gates


@pytest.mark.parametrize(
    ("result", "gates"),
    [
        ({"exact": False, "coded": True, "float_logits": False, "provider": "CPU"}, {"cc": 0.99}),
        ({"exact": True, "coded": True, "float_logits": False, "provider": "CPU"}, {"cc": 0.99, "codes": 1, "logits": 1}),
        ({"exact": True, "coded": True, "float_logits": True, "provider": "CPU"}, {"cc": 0.99, "codes": 1, "logits_close": 1}),
        ({"exact": False, "coded": False, "float_logits": True, "provider": "CPU"}, {"cc": 0.99, "logits_close": 1}),
        ({"exact": False, "coded": False, "float_logits": True, "provider": "CUDA"}, {"cc": 0.99}),
    ],
)
def test_gates_that_nobody_asked_for_follow_from_what_is_promised(result, gates):
    assert default_gates(**result) == gates


@pytest.mark.parametrize(
    ("gates", "message"),
    [({"speed": 1.0}, "speed: no such gate; choose from codes, tap"), ({"cc": 99.0}, "cc=99: the figure lies between -1 and 1"),
     ({"cc": float("nan")}, "cc=nan: the figure lies")],
)  # fmt: skip
def test_gates_that_cannot_be_are_refused(gates, message):
    with pytest.raises(QcamError, match=message):
        require_gates(gates)


def test_every_gate_can_be_asked_for():
    assert set(GATES) >= CODE_GATES
    require_gates(dict.fromkeys(GATES, 1.0))
