import pytest

from qcam.common.errors import QcamError
from qcam.evaluate.gates.asked import Figure, GateRequest, not_asked, read_gates, refuse_impossible


def test_gates_are_read_in_their_order_and_presets_last():
    found = read_gates(["int8.cc=0.98", "top1=0.9", "my.net.worst_cc=-0.5", "int8.drift<jpeg75"], ["maps", "mlperf"])
    assert [str(gate) for gate in found] == [
        "int8.cc=0.98", "top1=0.9", "my.net.worst_cc=-0.5", "int8.drift<jpeg75", "drift<jpeg95", "accuracy=0.99",
    ]  # fmt: skip
    assert found[0] == GateRequest("int8", Figure.CC, 0.98)
    assert found[2].precision == "my.net"
    assert read_gates(["int8.drift=jpeg95"]) == read_gates(["int8.drift<jpeg95"])  # for shells


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("int8", "give PRECISION.FIGURE=VALUE"), ("int8.cc", "give PRECISION"), ("int8.cc=", "give PRECISION"),
        ("int8.ssim=1", "no figure is called 'ssim'; choose from cc, sim"), ("f32.cc=1", "f32 is what the others are held"),
        ("int8.cc<0.9", "give cc=VALUE"), ("int8.cc=much", "'much' is no number"), ("int8.cc=98", "give 0.99 for 99 %"),
        ("int8.cc=nan", "lies between -1 and 1"), ("int8.sim=-0.1", "lies between 0 and 1"),
        ("int8.drift<png", "below a reference row, one of jpeg95"), ("int8.drift=0.1", "below a reference row"),
    ],
)  # fmt: skip
def test_what_is_no_gate_is_refused(text, told):
    with pytest.raises(QcamError, match=told) as found:
        read_gates([text])
    assert repr(text) in found.value.template


def test_one_figure_has_one_bound():
    with pytest.raises(QcamError, match=r"'int8\.cc=0\.9': int8\.cc=0\.98 is asked for as well"):
        read_gates(["int8.cc=0.98", "int8.cc=0.9"])
    assert len(read_gates(["int8.cc=0.98", "int8.cc=0.98"])) == 1
    with pytest.raises(QcamError, match="no preset is called so; choose from maps, mlperf"):
        read_gates([], ["codes"])


@pytest.mark.parametrize(
    ("gate", "run", "options", "told"),
    [
        ("int4.cc=1", ["f32", "int8"], {}, r"no bundle is run at int4, only at f32, int8"),
        ("cc=1", ["f32"], {}, "f32 alone is run"),
        ("int8.cc=1", ["int8"], {}, "net is run without f32"),
        ("int8.drift<floor", ["f32", "int8"], {"references": False}, "needs reference rows"),
        ("int8.cc=1", ["f32", "int8"], {"deployed": False}, "nothing is"),
    ],
)
def test_what_no_run_could_decide_is_refused_before(gate, run, options, told):
    with pytest.raises(QcamError, match=told):
        refuse_impossible(read_gates([gate]), {"net": run}, **{"references": True, "deployed": True} | options)


def test_what_a_run_can_decide_is_not():
    run = {"net": ["f32", "int8"], "other": ["f32"]}
    gates = read_gates(["int8.cc=1", "top1=1"])
    refuse_impossible(gates, run, references=False, deployed=True)
    assert not_asked(gates, run) == [
        "{fail_under} int8.cc=1 asks nothing of other, which is run at f32 only",
        "{fail_under} top1=1 asks nothing of other, which is run at f32 only",
    ]
