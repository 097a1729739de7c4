"""A wrong A-FAN config trains to its end or is refused in one line that names the culprit."""

from support.config_fuzz import fuzz

COUNT = 40


def test_wrong_configs_train_or_are_refused_in_a_line():
    lines = fuzz(COUNT, seed=7)
    assert [line for line in lines if ' | fault' in line] == []
    ends = [line.partition(' | ')[2].partition(':')[0] for line in lines]
    # neither end is that of all
    assert ends.count('refused') > COUNT / 4 and 'trained' in ends
