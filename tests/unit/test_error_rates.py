import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.error_rates import ErrorBudget, ErrorRates, Rate, parse_rate
from flowyard.schemas.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1", Rate(1, 60)),
        ("10/PT5M", Rate(10, 300)),
        (" 3/pt0.5s ", Rate(3, 0.5)),
        ("2/P1DT1H1M1S", Rate(2, 90_061)),
    ],
)
def test_rates(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "x", "1/", "1/5", "1/P", "1/PT", "1/P1DT", "1/P1M", "1/PT0S", "1/PT5X", "1 / PT5M"]
)
def test_what_is_no_rate(text):
    with pytest.raises(InvalidRequestError, match="is not a rate; allowed is a number of errors"):
        parse_rate(text)


def test_one_error_more_than_the_budget_is_too_many():
    budget = ErrorBudget(Rate(2, 60), 0)
    for _ in range(2):
        budget.failed(1)
        assert not budget.is_spent(1)
    budget.failed(1)
    assert budget.is_spent(1)


def test_it_is_well_again_when_a_window_has_passed_without_an_error_too_many():
    budget = ErrorBudget(Rate(1, 60), 0)
    budget.failed(0)
    budget.failed(0)
    assert budget.is_spent(59.9)
    assert not budget.is_spent(60)
    budget.failed(60)
    assert not budget.is_spent(60)


@given(st.integers(1, 20), st.integers(1, 100))
def test_errors_as_rare_as_the_rate_are_borne_for_ever(errors, window_s):
    budget = ErrorBudget(Rate(errors, window_s), 0)
    for count in range(1, 5 * errors):
        now = count * window_s / errors * 1.001
        budget.failed(now)
        assert not budget.is_spent(now)


@pytest.mark.parametrize(
    ("status", "counted"),
    [(200, ()), (404, ()), (413, ()), (424, ("server", "any")), (500, ("server", "any")), (507, ("server", "any")),
     (503, ("wlm", "any")), (429, ("wlm", "any"))],
)  # fmt: skip
def test_which_answers_count(status, counted):
    for kind in ("wlm", "server", "any"):
        rates = ErrorRates({kind: "1", "other": None}, (503, 429), lambda: 0.0)
        assert rates
        rates.answered(status)
        rates.answered(status)
        assert rates.exceeded() is (kind in counted)


def test_nothing_counts_where_nothing_is_limited():
    rates = ErrorRates({"any": None}, (503,), lambda: 0.0)
    rates.answered(500)
    assert not rates
    assert not rates.exceeded()
