"""Settings as they are typed."""

import pytest

from afan_mm import AFANSettings


def test_sizes_as_quotients():
    """As a command line gives them, where 0.4/255 is no number."""
    typed = AFANSettings(
        epsilon='0.4/255', step_size='1/510', noise_epsilon='0.25', perturbation='gradient+gaussian'
    )
    assert typed == AFANSettings(
        epsilon=0.4 / 255, step_size=1 / 510, noise_epsilon=0.25, perturbation='gradient+gaussian'
    )


@pytest.mark.parametrize(
    'key, value, message',
    [
        (
            'epsilon',
            '0.4/0',
            "epsilon must be a number or a quotient such as 0.4/255, but got '0.4/0'",
        ),
        ('epsilon', '-1/255', 'epsilon must be a finite number >= 0'),
        ('step_size', 'small', 'step_size must be a number or a quotient such as 0.4/255, but got'),
        ('eps', 0, 'eps must be a finite number > 0, but got 0'),
        ('adv_weight', '1', "adv_weight must be a number >= 0, but got '1'"),
        ('num_strengths', 1.0, 'num_strengths must be an integer >= 0, but got 1.0'),
        ('norm', 'l3', 'norm must be one of .*, but got .l3.'),
        ('detach', 1, 'detach must be a bool, but got 1'),
    ],
)
def test_what_is_refused(key, value, message):
    with pytest.raises((TypeError, ValueError), match=message):
        AFANSettings(**{key: value})
