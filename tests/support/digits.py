"""The generator of digits, as a module."""

import importlib.util

from support.paths import TOOLS

spec = importlib.util.spec_from_file_location(
    'digits_voc', TOOLS / 'dataset_converters' / 'digits_voc.py'
)
digits_voc = importlib.util.module_from_spec(spec)
spec.loader.exec_module(digits_voc)
