"""What experiments have found so far: one small file for each run, named by what determined it."""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Union

from ..utils.files import write_json


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
