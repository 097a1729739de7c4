"""Files that are whole or not there."""

import json
import os
import os.path as osp
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence, Union

from .errors import UsageError

PathLike = Union[str, Path]


def shipped(name: str) -> Path:
    """Where the 'configs' or 'tools' of the package are: inside it once installed, beside it in a
    source tree.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / '.mim' / name
    return inside if inside.is_dir() else package.parent / name


@contextmanager
def replacing(path: PathLike) -> Iterator[str]:
    """A path beside ``path``, with the same suffix, to write to; the file gets its own name only
    when all went well, so that a reader never meets half of it.

    Args:
        path: Where to; its folder is made.

    Raises:
        OSError: ``cannot write <path>: <reason>``.
    """
    stem, suffix = osp.splitext(str(path))
    temporary = f'{stem}.{os.getpid()}.tmp{suffix}'
    try:
        os.makedirs(osp.dirname(temporary) or '.', exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            if osp.exists(temporary):
                os.remove(temporary)
    except OSError as error:
        raise OSError(f'cannot write {path}: {error.strerror or error}') from error


def write(path: PathLike, content: Union[str, bytes]) -> None:
    """Write the whole file or none of it; a text in UTF-8."""
    with replacing(path) as temporary, open(temporary, 'wb') as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: PathLike, content: Any, indent: int = 1) -> None:
    """Write the whole file or none of it. JSON has no NaN: what is not finite becomes null."""
    finite = json.loads(json.dumps(content), parse_constant=lambda name: None)
    write(path, json.dumps(finite, indent=indent) + '\n')


def check_output(option: str, path: PathLike, suffixes: Optional[Sequence[str]] = None) -> None:
    """Complain now about a file, or a folder (a path that ends in a separator), that could not be
    written in the end.

    Args:
        option: What the user calls it.
        path: Its folders may be missing, as long as they can be made.
        suffixes: What the name may end in, such as '.png', if not in anything.

    Raises:
        UsageError: With the option, what is allowed and what came.
    """
    path = str(path)
    if suffixes is not None and not path.endswith(tuple(suffixes)):
        allowed = f'{"one of " * (len(suffixes) > 1)}{", ".join(suffixes)}'
        raise UsageError(f'{option} must end in {allowed}, but got {path}')
    is_folder = path.endswith(('/', os.sep))
    parents = Path(osp.abspath(osp.join(path, 'file') if is_folder else path)).parents
    folder = next(parent for parent in parents if parent.exists())
    if osp.isdir(path) and not is_folder or not folder.is_dir() or not os.access(folder, os.W_OK):
        kind = f'{"" if is_folder else "a file in "}a folder that can be written'
        raise UsageError(f'{option} must be {kind}, but got {path}')
