"""What figures depend on beside the settings: versions, source code and files of weights."""

import contextlib
import importlib.util
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional

from mmengine.config import Config

from .measures import MEASURES
from .store import digest, file_digest

PACKAGE = Path(__file__).resolve().parent.parent
# Of the package: what no training runs through.
ELSEWHERE = (
    'analysis',
    'cli',
    'conversion',
    'experiments',
    'observation.py',
    'robustness',
    'visualization',
)
TRAINS = ('experiments/sam.py',)
# Of those beside robustness/: what an attack runs through.
ATTACKS = (
    'attack.py',
    'feature_cache.py',
    'functional.py',
    'host_state.py',
    'isolation.py',
    'norms.py',
)
PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmcv-lite', 'mmdet', 'mmsegmentation', 'mmpretrain')
INSTALLED = {'site-packages', 'dist-packages'}
# Of a config: what says where and how a run is logged, not what comes out.
NOT_RESULTS = (
    'work_dir',
    'launcher',
    'log_level',
    'log_processor',
    'resume',
    'visualizer',
    'vis_backends',
    'experiment_name',
    'randomness',
)


def training_parts(cfg: Config) -> Dict[str, Any]:
    """What of a config determines the weights: all but logging and evaluation."""
    return {
        key: value
        for key, value in cfg.to_dict().items()
        if key not in NOT_RESULTS and not key.startswith(('val_', 'test_', 'tta_'))
    }


def environment(cfg: Config) -> Dict[str, str]:
    """The versions that a run's figures depend on: those of the packages and, where the config uses
    them, the source of afan_mm and of the user's own modules, and the content of files of weights.
    """
    found = dict(python=platform.python_version())
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if uses_afan(cfg):
        found['afan_mm'] = source_digest()
    for name in imported_modules(cfg.get('custom_imports')):
        files = own_source(name)
        if files:
            found[f'source of {name}'] = digest([file_digest(path) for path in files])
    for path in local_files([cfg.get('load_from'), cfg.get('model')]):
        found[f'content of {path}'] = file_digest(path)
    return found


def uses_afan(cfg: Config) -> bool:
    """Whether a config imports afan_mm or has a type of it; a stock run does not depend on it."""
    parts = json.dumps(training_parts(cfg), default=str)
    ours = any(
        each.split('.')[0] == 'afan_mm' for each in imported_modules(cfg.get('custom_imports'))
    )
    # a class of a config in the pure Python style is written with its module
    return ours or '"AFAN' in parts or '"afan_mm.' in parts


def imported_modules(custom_imports: Optional[dict]) -> List[str]:
    """The modules of a config's ``custom_imports``; mmengine imports them only when it reads a
    file.
    """
    imports = (custom_imports or {}).get('imports') or []
    return [imports] if isinstance(imports, str) else list(imports)


def own_source(module: str) -> List[Path]:
    """The files of a module of the user's, all below it if it is a package; none of one that is
    installed, which has a version, and of afan_mm's.
    """
    if module.split('.')[0] == PACKAGE.name:
        return []
    spec = None
    with contextlib.suppress(ImportError, ValueError):  # missing, or made in this process
        spec = importlib.util.find_spec(module)
    if spec is None:
        return []
    files = [Path(spec.origin)] if spec.has_location else []
    for folder in spec.submodule_search_locations or ():
        files += sorted(Path(folder).rglob('*.py'))
    return [path for path in files if not INSTALLED & set(path.parts)]


def local_files(node: Any) -> List[str]:
    """Every file on this machine that a part of a config names, such as the checkpoint of an
    ``init_cfg``.
    """
    if isinstance(node, str):
        return [node] if os.path.isfile(node) else []
    children = node.values() if isinstance(node, dict) else node
    children = children if isinstance(node, (dict, list, tuple)) else ()
    return [path for child in children for path in local_files(child)]


def measure_digests(measure: dict) -> List[str]:
    """Of the source that a measure's figures come from. The stock metrics are the libraries' own;
    the others change with ours, and one of the user's with its module.
    """
    if measure['type'] in ('stock', 'cost'):
        return []
    own = own_source(MEASURES[measure['type']].__module__)
    return [robustness_digest(), *map(file_digest, own)]


def source_digest() -> str:
    """Of the modules of afan_mm that a training may run through."""
    return _digest_of(
        [
            path
            for path in PACKAGE.rglob('*.py')
            if path.relative_to(PACKAGE).parts[0] not in ELSEWHERE
            or path.relative_to(PACKAGE).as_posix() in TRAINS
        ]
    )


def robustness_digest() -> str:
    """Of the modules that evaluate on perturbed and corrupted images, and that choose these."""
    own = ('experiments/data.py', 'experiments/measures/robustness.py')
    parts = (PACKAGE / part for part in (*ATTACKS, *own))
    return _digest_of([*(PACKAGE / 'robustness').rglob('*.py'), *parts])


def _digest_of(paths: Iterable[Path]) -> str:
    return digest({str(path.relative_to(PACKAGE)): path.read_text() for path in paths})
