"""What ``--robust`` and ``--corruptions`` do to a config: its test runs a loop of this package."""

import inspect
from dataclasses import fields
from typing import Any, Optional, Sequence

from mmengine.config import Config

from ..robustness import AttackSettings, CorruptionTestLoop, RobustTestLoop
from ..robustness.corruptions import SEVERITIES, CommonCorruption, corruption_names
from ..utils.configs import library_of, type_name
from ..utils.errors import UsageError

SETTINGS = {field.name for field in fields(AttackSettings)}
# 'attack' is what the signature calls the settings, and one of them
KEYS = {
    loop.__name__: {'type', '_scope_', *inspect.signature(loop).parameters, *settings}
    for loop, settings in ((RobustTestLoop, SETTINGS), (CorruptionTestLoop, ()))
}


def enable_robust(
    cfg: Config, attack: Optional[str] = None, show_dir: Optional[str] = None
) -> None:
    """Test with the loop of the robust evaluation, which draws its own pictures.

    Args:
        attack: One of :data:`~afan_mm.robustness.settings.ATTACKS`. Defaults to that of the
            config's ``test_cfg``, or 'pgd' where it names none.
        show_dir: Folder for the pictures. Defaults to that of ``test_cfg``, or none.

    Raises:
        UsageError: A setting of the attack is wrong.
    """
    _use(cfg, 'RobustTestLoop', attack=attack, show_dir=show_dir)
    apart = KEYS['RobustTestLoop'] - SETTINGS
    settings = {key: value for key, value in cfg.test_cfg.items() if key not in apart}
    try:
        AttackSettings.for_library(library_of(cfg, '--robust'), **settings)
    except (TypeError, ValueError) as error:
        raise UsageError(f'test_cfg: {error}') from error


def enable_corruptions(
    cfg: Config, corruptions: Sequence[str] = (), severities: Optional[Sequence[int]] = None
) -> None:
    """Test with the :class:`~afan_mm.robustness.CorruptionTestLoop`.

    Args:
        corruptions: Names. Defaults to none, those of the config's ``test_cfg``, or the fifteen of
            the benchmark where it names none.
        severities: Defaults to those of ``test_cfg``, or 1 to 5.

    Raises:
        CorruptionError: A name or a severity is unknown.
    """
    severities = None if severities is None else list(severities)
    _use(cfg, 'CorruptionTestLoop', corruptions=list(corruptions) or None, severities=severities)
    for corruption in cfg.test_cfg.get('corruptions') or corruption_names():
        for severity in cfg.test_cfg.get('severities', SEVERITIES):
            CommonCorruption(corruption, severity)


def _use(cfg: Config, loop: str, **given: Any) -> None:
    """Let a test run a loop. What its ``test_cfg`` says stays, but for what is given here, and for
    keys that only the other loop knows, where it ran that one.
    """
    before = dict(cfg.get('test_cfg') or {})
    foreign = KEYS.get(type_name(before), set()) - KEYS[loop]
    kept = {key: value for key, value in before.items() if key not in foreign}
    stated = {key: value for key, value in given.items() if value is not None}
    cfg.test_cfg = dict(kept, type=loop, **stated)
