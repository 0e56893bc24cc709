import importlib.util
from pathlib import Path

import pytest
from mirror_single import MICROSOFT, each, since
from onnx import helper

from qcam.common.errors import QcamError
from qcam.runtime.mirror import operators, registry
from qcam.runtime.mirror.registry import resolve

HERE = Path(__file__).parent / "operators"
OPERATOR_FILES = sorted(operators.__all__)


@pytest.fixture
def own_registry(monkeypatch):
    """Let a test register what it likes."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def cases_of(name):
    """Return the cases of the test file that belongs to a file of operators."""
    spec = importlib.util.spec_from_file_location(f"mirror_cases_{name}", HERE / f"test_{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CASES


def operators_of(name):
    """Return what a file of operators registers: (domain, operator, version)."""
    module = f"{operators.__name__}.{name}"
    return {key for key in registry._REGISTRY if registry._REGISTRY[key].__module__ == module}


def node(operator, domain="", name="here", **attributes):
    return helper.make_node(operator, ["x"], ["y"], name=name, domain=domain, **attributes)


def test_every_file_of_operators_is_tested():
    assert set().union(*(operators_of(name) for name in OPERATOR_FILES)) == set(registry._REGISTRY)


@pytest.mark.parametrize("name", OPERATOR_FILES)
def test_every_version_of_every_operator_has_a_case(name):
    covered = {
        (case.domain, case.operator, since(case.operator, opset, case.domain))
        for case in cases_of(name)
        for opset in case.opsets
    }
    assert covered == operators_of(name)


@pytest.mark.parametrize("name", OPERATOR_FILES)
def test_every_operator_is_compared_to_both_oracles_at_opset_21_or_newer(name):
    newest = [(case, opset) for case in cases_of(name) for opset in case.opsets if opset >= 21]
    wanted = {(domain, operator) for domain, operator, _ in operators_of(name)}
    by_runtime = {(case.domain, case.operator) for case, _ in newest if case.runtime}
    by_reference = {
        (case.domain, case.operator) for case, opset in newest if case.reference is not None and opset >= case.reference_from
    }
    assert by_runtime == wanted
    assert by_reference == {(domain, operator) for domain, operator in wanted if domain != MICROSOFT}


@pytest.mark.parametrize("name", OPERATOR_FILES)
def test_every_case_has_an_oracle_and_a_name_of_its_own(name):
    cases = cases_of(name)
    assert all(case.opsets and (case.runtime or case.reference is not None) for case in cases)
    names = [parameter.id for parameter in each(cases)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("operator", "domain", "opsets", "label"),
    [
        ("GridSample", "", {"": 21}, r"GridSample \(domain ai\.onnx, version 20\)"),
        ("GridSample", "ai.onnx", {"": 21}, r"GridSample \(domain ai\.onnx, version 20\)"),
        ("Softmax", "", {"": 12}, r"Softmax \(domain ai\.onnx, version 11\)"),
        ("Nonsense", "", {"": 21}, r"Nonsense \(domain ai\.onnx, version 21\)"),
        ("QLinearAdd", MICROSOFT, {"": 21, MICROSOFT: 1}, r"QLinearAdd \(domain com\.microsoft, version 1\)"),
        ("Relu", "of.mine", {"": 21, "of.mine": 3}, r"Relu \(domain of\.mine, version 3\)"),
        ("Relu", "of.mine", {"": 21}, r"Relu \(domain of\.mine, version 0\)"),
        ("QuantizeLinear", MICROSOFT, {MICROSOFT: 2}, r"QuantizeLinear \(domain com\.microsoft, version 2\)"),
    ],
)
def test_an_unknown_operator_is_refused_by_name_domain_and_version(operator, domain, opsets, label):
    with pytest.raises(QcamError, match=f"the mirror has no operator {label}, needed by node here"):
        resolve(node(operator, domain), opsets)


def test_a_node_without_a_name_is_named_by_its_output():
    with pytest.raises(QcamError, match="needed by node y"):
        resolve(node("Nonsense", name=""), {"": 21})


def test_an_unknown_attribute_is_refused_by_name():
    message = r"the mirror's MaxPool \(domain ai\.onnx, version 12\) does not know attribute sparkle of node here"
    with pytest.raises(QcamError, match=message):
        resolve(node("MaxPool", kernel_shape=[2, 2], sparkle=1), {"": 21})


def test_an_input_of_the_function_is_no_attribute():
    with pytest.raises(QcamError, match="does not know attribute bias"):
        resolve(node("Conv", bias=1.0), {"": 21})


def test_attributes_become_keyword_arguments():
    pool = node("MaxPool", kernel_shape=[2, 3], auto_pad="SAME_UPPER", ceil_mode=1)
    assert resolve(pool, {"": 21}).attributes == {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER", "ceil_mode": 1}


@pytest.mark.usefixtures("own_registry")
def test_registering_a_version_twice_is_an_error():
    def first(x):
        return x

    def second(x):
        return -x

    registry.operator("Twice", versions=(1, 3), domain="of.mine")(first)
    with pytest.raises(ValueError, match=r"operator Twice version 3 of domain 'of\.mine' is registered twice"):
        registry.operator("Twice", versions=(3, 4), domain="of.mine")(second)
    assert resolve(node("Twice", "of.mine"), {"of.mine": 3}).function is first


def test_an_operator_of_the_mirror_cannot_be_replaced():
    with pytest.raises(ValueError, match="operator Conv version 22 of domain '' is registered twice"):
        registry.operator("Conv", versions=(22,))(lambda x: x)


@pytest.mark.usefixtures("own_registry")
def test_the_opset_chooses_the_version():
    def older(x):
        return x

    def newer(x):
        return x

    registry.operator("LpPool", versions=(2, 11))(older)
    registry.operator("LpPool", versions=(18,))(newer)
    chosen = [resolve(node("LpPool"), {"": opset}).function for opset in (7, 10, 11, 17, 18, 21)]
    assert chosen == [older, older, older, older, newer, newer]
