"""Every check lets through what it says, and names the argument, what is allowed and what came."""

import math
import re

import numpy as np
import pytest

from afan_mm.utils.checks import (
    check_choice,
    check_integer,
    check_number,
    check_type,
    read_quotient,
)


@pytest.mark.parametrize(
    'check, value',
    [
        (lambda v: check_integer('n', v, 1), 1),
        (lambda v: check_number('x', v), 0),
        (lambda v: check_number('x', v), np.float32(0.5)),
        (lambda v: check_number('x', v, 0, 1), 1),
        (lambda v: check_number('x', v, -2, above=True), -1.5),
        (lambda v: check_choice('c', v, ('a', None)), None),
        (lambda v: check_type('t', v, bool), False),
    ],
)
def test_what_is_allowed_comes_back(check, value):
    assert check(value) is value


@pytest.mark.parametrize(
    'check, value, error, message',
    [
        (lambda v: check_integer('n', v, 1), 0, ValueError, 'n must be an integer >= 1, but got 0'),
        (lambda v: check_integer('n', v, 0), True, ValueError, 'n must be an integer >= 0'),
        (lambda v: check_integer('n', v, 0), 1.0, ValueError, 'but got 1.0'),
        (lambda v: check_number('x', v), '1', TypeError, "x must be a number >= 0, but got '1'"),
        (lambda v: check_number('x', v), True, TypeError, 'x must be a number >= 0, but got True'),
        (lambda v: check_number('x', v), -1, ValueError, 'x must be a finite number >= 0'),
        (lambda v: check_number('x', v), math.nan, ValueError, 'x must be a finite number >= 0'),
        (lambda v: check_number('x', v), math.inf, ValueError, 'but got inf'),
        (
            lambda v: check_number('x', v, above=True),
            0,
            ValueError,
            'x must be a finite number > 0',
        ),
        (lambda v: check_number('x', v, 0, 1, True), 0, ValueError, 'number in (0, 1], but got 0'),
        (lambda v: check_number('x', v, 0, 1), 2, ValueError, 'number in [0, 1], but got 2'),
        (lambda v: check_choice('c', v, ['a', 1]), 'b', ValueError, "c must be one of ('a', 1)"),
        (lambda v: check_type('t', v, bool), 0, TypeError, 't must be a bool, but got 0'),
    ],
)
def test_what_is_not_is_named(check, value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check(value)


def test_quotients():
    assert read_quotient('epsilon', '0.4/255') == 0.4 / 255 and read_quotient('epsilon', '2') == 2.0
    given = object()
    assert read_quotient('epsilon', given) is given
    for text in ('1/0', 'big', '1/2/3', ''):
        with pytest.raises(ValueError, match='epsilon must be a number or a quotient such as'):
            read_quotient('epsilon', text)
