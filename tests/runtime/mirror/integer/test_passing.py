"""QLinearConcat, operators that work on codes as they are, and operators that stay float, against ONNX Runtime here."""

from integer_cases import Case, check, property_of
from integer_operators import concat, passing, unfused


@property_of(concat, 80)
def test_concat(case: Case) -> None:
    check(case)


@property_of(passing, 150)
def test_operators_on_codes(case: Case) -> None:
    check(case)


@property_of(unfused, 100)
def test_a_limit_that_takes_something_away_keeps_the_operator_float(case: Case) -> None:
    check(case)
