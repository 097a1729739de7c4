"""What this environment has, what it lacks and what to do about it: ``afan env``."""

import importlib
from typing import Dict, List, NamedTuple

import torch
from mmengine.utils.dl_utils import collect_env as mmengine_env

from . import __version__
from .versions import REQUIREMENTS, installed

# Extras of the package, the modules that they bring, and what needs these.
EXTRAS = {
    'plots': (('matplotlib',), 'plots of runs, costs and robustness'),
    'corruptions': (('imagecorruptions',), 'evaluation on corrupted images'),
    'experiments': (('scipy', 'submitit', 'matplotlib'), 'experiments with several seeds'),
    'analysis': (('scipy', 'matplotlib'), 'curvature and landscape of the loss'),
    'pretrained': (('timm',), 'a small backbone with weights from ImageNet'),
}
BUILD_MMCV = (
    'build mmcv with its operators, after torch: pip install "setuptools<80" wheel ninja, then '
    'MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir "mmcv>=2.0,<2.2"'
)


class Report(NamedTuple):
    """What :func:`collect_env` found.

    Attributes:
        facts: Names and values: platform, devices, versions.
        advice: What is missing, each with what to do.
    """

    facts: Dict[str, str]
    advice: List[str]

    def __str__(self) -> str:
        facts = [f'{key}: {value}' for key, value in self.facts.items()]
        advice = [f'- {line}' for line in self.advice] or ['Nothing is missing.']
        return '\n'.join(facts + [''] + advice)


def collect_env() -> Report:
    """Platform, devices and versions as mmengine reports them, with those of afan_mm and what it
    extends.
    """
    facts = {key: str(value) for key, value in mmengine_env().items()}
    facts.pop('PyTorch compiling details', None)  # a screen of compiler flags
    facts['afan_mm'] = __version__
    advice = []
    for need in REQUIREMENTS:
        found = installed(need.package)
        problem = _import_problem(need.module)
        works = f'works with {need.bounds}' + (f'; {problem}' if found and problem else '')
        facts[need.package] = f'{found or "not installed"} ({works})'
        if problem:
            advice.append(f'{need.needed_for} needs {need.package}{need.bounds}: {problem}')
    problem = installed('mmcv') and _import_problem('mmcv.ops')
    facts['mmcv.ops'] = problem or ('compiled' if installed('mmcv') else 'not installed')
    if problem:
        advice.append(f"mmcv's operators, which mmdet and mmseg need: {problem}; {BUILD_MMCV}")
    for extra, (modules, use) in EXTRAS.items():
        missing = [module for module in modules if _import_problem(module)]
        facts[f'extra [{extra}]'] = f'missing {", ".join(missing)}' if missing else 'installed'
        if missing:
            advice.append(f"{use}: pip install 'afan_mm[{extra}]'")
    if not torch.cuda.is_available():
        advice.append('no GPU is used: torch finds none, or is a build without CUDA')
    return Report(facts, advice)


def _import_problem(module: str) -> str:
    """What an import says where it fails, else nothing. A package may be there and yet not load."""
    try:
        importlib.import_module(module)
    except Exception as error:  # also AssertionError, of libraries that refuse an mmcv
        return f'{type(error).__name__}: {error}'.splitlines()[0]
    return ''
