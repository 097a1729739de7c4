"""tools/test.py --corruptions."""

import pytest
import torch

from afan_mm.utils.errors import UsageError
from support.projects import write_project
from support.tools import configure_test


@pytest.fixture
def paths(tmp_path):
    config, checkpoint = write_project('mmseg', tmp_path / 'project'), tmp_path / 'model.pth'
    torch.save(dict(state_dict={}), checkpoint)
    return str(config), str(checkpoint)


def test_all_of_the_benchmark_or_some(paths):
    every = configure_test(*paths, '--corruptions')
    assert every.test_cfg == dict(type='CorruptionTestLoop')  # whose defaults are all of them
    some = configure_test(*paths, '--corruptions', 'fog', 'snow', '--severities', '1', '3')
    assert some.test_cfg.corruptions == ['fog', 'snow'] and some.test_cfg.severities == [1, 3]
    assert configure_test(*paths).test_cfg.type == 'TestLoop'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--corruptions', 'rain'], "corruption must be one of gaussian_noise.*, but got 'rain'"),
        (['--corruptions', '--robust'], '--robust does not go with --corruptions'),
        (['--corruptions', '--show-dir', 'x'], '--show-dir does not go with --corruptions'),
        (['--severities', '1'], '--severities needs --corruptions'),
    ],
)
def test_what_does_not_go_is_said(paths, options, message):
    with pytest.raises(UsageError, match=message):
        configure_test(*paths, *options)
