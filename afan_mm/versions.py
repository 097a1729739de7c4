"""The versions that afan_mm works with: stated here, and checked when this is imported."""

import re
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Iterator, NamedTuple, Optional, Tuple


class Requirement(NamedTuple):
    """A package and the versions of it that work.

    Attributes:
        module: What is imported.
        package: What is installed.
        least, below: ``least <= version < below``; None for no bound.
        tried: The newest that this was run with.
        needed_for: What does not work without it.
    """

    module: str
    package: str
    least: str
    below: Optional[str]
    tried: str
    needed_for: str

    @property
    def bounds(self) -> str:
        """As pip writes them."""
        return f'>={self.least}' + ('' if self.below is None else f',<{self.below}')

    def allows(self, found: str) -> bool:
        """Whether a version lies within the bounds; local and pre-release parts do not count."""
        return _numbers(self.least) <= _numbers(found) and (
            self.below is None or _numbers(found) < _numbers(self.below)
        )


# requires-python in pyproject.toml says the same of Python: 3.8 or newer.
REQUIREMENTS = (
    Requirement('torch', 'torch', '2.0', None, '2.14.1', 'everything'),
    Requirement('mmengine', 'mmengine', '0.8', '1', '0.10.7', 'everything'),
    # mmdet and mmseg accept less of it (below 2.2), and say so themselves
    Requirement('mmcv', 'mmcv', '2.0', '3', '2.1.0', 'detection, segmentation and classification'),
    Requirement('mmdet', 'mmdet', '3.0', '4', '3.3.0', 'detection'),
    Requirement('mmseg', 'mmsegmentation', '1.0', '2', '1.2.2', 'segmentation'),
    Requirement('mmpretrain', 'mmpretrain', '1.0', '2', '1.2.0', 'classification'),
)
ALWAYS_NEEDED = ('torch', 'mmengine')


def installed(package: str) -> Optional[str]:
    """The installed version of a package, or None. Nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def problems() -> Iterator[str]:
    """What is missing or of a version that does not work, each with what to do."""
    for requirement in REQUIREMENTS:
        found = installed(requirement.package)
        if found is not None and not requirement.allows(found):
            yield (
                f'it works with {requirement.package} {requirement.bounds}, but found {found}: '
                f"pip install '{requirement.package}{requirement.bounds}'"
            )
        # A source tree on the path has no version, but can be imported.
        elif requirement.module in ALWAYS_NEEDED and find_spec(requirement.module) is None:
            yield (
                f'it needs {requirement.package}, which is not installed: '
                f"pip install '{requirement.package}{requirement.bounds}'"
            )


def untried() -> Iterator[str]:
    """What works as far as its bounds say, but is newer than what this was run with."""
    for requirement in REQUIREMENTS:
        found = installed(requirement.package)
        if found is not None and _numbers(found) > _numbers(requirement.tried):
            yield f'{requirement.package} {found} (tried: {requirement.tried})'


def check_versions() -> None:
    """Raise where a package is too old, too new, or needed and missing; warn once of all that are
    newer than tried.

    Raises:
        ImportError: With every such package and what to do.
    """
    found = list(problems())
    if found:
        raise ImportError('afan_mm cannot be used in this environment:\n  ' + '\n  '.join(found))
    newer = ', '.join(untried())
    if newer:
        warnings.warn(f'newer than what afan_mm was tried with: {newer}', stacklevel=2)


def _numbers(text: str) -> Tuple[int, ...]:
    """'2.13.0+cpu' as (2, 13, 0)."""
    numbers = [int(part) for part in re.match(r'[\d.]*', text).group().split('.') if part]
    while numbers and numbers[-1] == 0:  # 2.0 and 2.0.0 are one version
        numbers.pop()
    return tuple(numbers)


check_versions()
