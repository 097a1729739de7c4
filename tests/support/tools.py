"""The commands in tools/, as modules."""

import importlib
import importlib.util
import sys

from afan_mm.cli.evaluation import evaluation_config
from afan_mm.cli.training import training_config
from support.paths import TOOLS

# those of the set-up run where nothing is installed yet, and import each other from their folder
sys.path.insert(0, str(TOOLS))
build_mmcv, mmcv_wheel = map(importlib.import_module, ('build_mmcv', 'mmcv_wheel'))
probe_env, setup_env = map(importlib.import_module, ('probe_env', 'setup_env'))
virtual_env = importlib.import_module('virtual_env')
sys.path.remove(str(TOOLS))


def load_tool(name):
    """A tool as a module, under a name that does not clash with the standard library's ``test``.

    Args:
        name: Its path in tools/, without .py.
    """
    path = TOOLS / f'{name}.py'
    spec = importlib.util.spec_from_file_location(f'tool_{path.stem}', str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train, test, demo = load_tool('train'), load_tool('test'), load_tool('demo')


def configure_train(*argv):
    return training_config(**vars(train.parse_args(list(argv))))


def configure_test(*argv):
    options = vars(test.parse_args(list(argv)))
    del options['any_checkpoint']  # of the evaluation, not of its config
    return evaluation_config(**options)
