"""What experiments have found so far: one small file for each run, named by what determined it."""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Union

from mmengine.config import Config

from ..utils.files import write_json

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
ATTACKS = ('attack.py', 'feature_cache.py', 'functional.py', 'isolation.py', 'norms.py')
PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmcv-lite', 'mmdet', 'mmsegmentation', 'mmpretrain')
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


class Store:
    """A folder with ``results/<key>.json`` for each run, and its logs and checkpoints in
    ``runs/<key>``.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)

    def load(self, key: str) -> Optional[Dict[str, Any]]:
        """The record of a run, or None."""
        path = self._path(key)
        return json.loads(path.read_text()) if path.exists() else None

    def save(self, key: str, record: Dict[str, Any]) -> None:
        """Keep a record, all of it or nothing."""
        write_json(self._path(key), record)

    def all(self) -> List[Dict[str, Any]]:
        """Every record there is."""
        files = sorted((self.folder / 'results').glob('*.json'))
        return [json.loads(path.read_text()) for path in files]

    def find(self, name: str) -> Optional[str]:
        """The key of a run, stored or begun, that ends in ``name``; None where there is none."""
        stored = (self.folder / 'results').glob(f'*-{name}.json')
        begun = (self.folder / 'runs').glob(f'*-{name}')
        keys = [path.stem for path in sorted(stored)] + [path.name for path in sorted(begun)]
        return keys[0] if keys else None

    def run_folder(self, key: str) -> Path:
        """Where a run keeps its logs and checkpoints."""
        return self.folder / 'runs' / key

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Wait until no other process has this run; the system frees the lock of a killed one."""
        folder = self.run_folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / 'lock', 'w') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, key: str) -> Path:
        return self.folder / 'results' / f'{key}.json'


def digest(content: Any) -> str:
    """A short name for anything that json can write."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Union[str, Path]) -> str:
    """A short name for the content of a file, which is read anew only once it was written anew."""
    about = os.stat(path)
    return _content_digest(str(path), about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=None)
def _content_digest(path: str, *written: int) -> str:
    found = hashlib.sha256()
    with open(path, 'rb') as file:
        for part in iter(lambda: file.read(2**20), b''):
            found.update(part)
    return found.hexdigest()[:16]


def training_parts(cfg: Config) -> Dict[str, Any]:
    """What of a config determines the weights: all but logging and evaluation."""
    return {
        key: value
        for key, value in cfg.to_dict().items()
        if key not in NOT_RESULTS and not key.startswith(('val_', 'test_', 'tta_'))
    }


def environment(cfg: Config) -> Dict[str, str]:
    """The versions that a run's figures depend on: those of the packages and, where the config uses
    it, the source of afan_mm.
    """
    found = dict(python=platform.python_version())
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if uses_afan(cfg):
        found['afan_mm'] = source_digest()
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
