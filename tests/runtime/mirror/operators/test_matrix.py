import pytest
from mirror_single import case, check, check_gradient, each, floats, operator_function

CASES = [
    *(
        case(
            "Gemm",
            f"transA {left} transB {right} {name}",
            a,
            b,
            *((c,) if c is not None else ()),
            transA=left,
            transB=right,
            alpha=alpha,
            beta=beta,
        )
        for left, a in ((0, floats(3, 4)), (1, floats(4, 3)))
        for right, b in ((0, floats(4, 5, seed=1)), (1, floats(5, 4, seed=1)))
        for name, c, alpha, beta in (
            ("plain", floats(5, seed=2), 1.0, 1.0),
            ("alpha", floats(5, seed=2), 0.5, 1.0),
            ("beta", floats(5, seed=2), 1.0, -0.25),
            ("both and matrix", floats(3, 5, seed=2), -2.0, 0.75),
        )
    ),
    *(
        case("Gemm", f"C {name} transB {right}", floats(3, 4), b, c, transB=right)
        for right, b in ((0, floats(4, 5, seed=1)), (1, floats(5, 4, seed=1)))
        for name, c in (
            ("value", floats(seed=2)),
            ("one", floats(1, seed=2)),
            ("column", floats(3, 1, seed=2)),
            ("row", floats(1, 5, seed=2)),
            ("matrix", floats(3, 5, seed=2)),
        )
    ),
    *(
        case(
            "Gemm",
            f"without C transB {right} alpha {alpha}",
            floats(3, 4),
            b,
            transB=right,
            alpha=alpha,
            opsets=(11, 13, 21),
        )
        for right, b, alpha in (
            (0, floats(4, 5, seed=1), 1.0),
            (1, floats(5, 4, seed=1), 1.0),
            (1, floats(5, 4, seed=1), 2.0),
        )
    ),
    case("Gemm", "one output", floats(3, 4), floats(1, 4, seed=1), floats(1, seed=2), transB=1),
    case("MatMul", "matrices", floats(3, 4), floats(4, 5, seed=1)),
    case("MatMul", "vectors", floats(4), floats(4, seed=1)),
    case("MatMul", "matrix and vector", floats(3, 4), floats(4, seed=1)),
    case("MatMul", "vector and matrices", floats(4), floats(2, 4, 5, seed=1)),
    case("MatMul", "batches", floats(2, 3, 4), floats(2, 4, 5, seed=1)),
    case("MatMul", "broadcast batches", floats(2, 1, 3, 4), floats(6, 4, 5, seed=1)),
]


@pytest.mark.parametrize(("item", "opset"), each(CASES))
def test_equals_the_oracles(item, opset):
    check(item, opset)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"transB": 1}, {"transA": 1, "alpha": 0.5, "beta": -0.25}, {"transA": 1, "transB": 1, "beta": 2.0}],
    ids=str,
)
def test_gradient_of_gemm_equals_finite_differences(attributes):
    a = floats(*((4, 2) if attributes.get("transA") else (2, 4)))
    b = floats(*((3, 4) if attributes.get("transB") else (4, 3)), seed=1)
    check_gradient(operator_function("Gemm", **attributes), a, b, floats(3, seed=2))


def test_gradient_of_matmul_equals_finite_differences():
    check_gradient(operator_function("MatMul"), floats(2, 2, 3), floats(3, 2, seed=1))
