"""The commands in tools/, as modules."""

import importlib
import importlib.util
import sys

from support.paths import TOOLS

# the tools import their shared modules from their own folder, as scripts do
sys.path.insert(0, str(TOOLS))
command_line, data_check = map(importlib.import_module, ('command_line', 'data_check'))
build_mmcv, mmcv_wheel = map(importlib.import_module, ('build_mmcv', 'mmcv_wheel'))
probe_env, setup_env = map(importlib.import_module, ('probe_env', 'setup_env'))
sys.path.remove(str(TOOLS))


def load_tool(name):
    """A tool as a module, under a name that does not clash with the standard library's ``test``."""
    spec = importlib.util.spec_from_file_location(f'tool_{name}', str(TOOLS / f'{name}.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train, test, demo = load_tool('train'), load_tool('test'), load_tool('demo')


def configure_train(*argv):
    return train.configure(train.parse_args(list(argv)))


def configure_test(*argv):
    return test.configure(test.parse_args(list(argv)))
