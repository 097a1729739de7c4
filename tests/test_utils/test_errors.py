"""Which exceptions carry a message to the user, and which are bugs."""

import pytest

from afan_mm.utils.checks import check_number, read_quotient
from afan_mm.utils.errors import describe, is_message, where_raised
from afan_mm.utils.files import shipped


def caught(call, *args):
    with pytest.raises(Exception) as found:
        call(*args)
    return found.value


def test_what_the_package_raises_itself_is_a_message():
    assert is_message(caught(check_number, 'epsilon', -1))  # on one line
    assert is_message(caught(read_quotient, 'epsilon', 'much'))  # on several, in a handler


def test_what_it_runs_into_is_a_bug():
    assert not is_message(caught(check_number, 'epsilon'))  # an argument is missing
    assert not is_message(caught(shipped, 1))  # TypeError of an operator in the package
    assert not is_message(caught(int, 'x'))


def test_what_others_raise_and_other_kinds_are_bugs():
    def other():
        raise ValueError('not of the package')

    assert not is_message(caught(other))
    assert not is_message(KeyError('never raised')) and not is_message(ValueError('never raised'))


def test_described_in_one_line_with_its_place():
    error = caught(check_number, 'epsilon', -1)
    assert describe(error).startswith('ValueError: epsilon must be')
    assert describe(ValueError('first\nsecond')) == 'ValueError: first'
    assert describe(ValueError()) == 'ValueError'
    assert where_raised(error).partition(':')[0].endswith('checks.py')
    assert where_raised(ValueError()) == ''
