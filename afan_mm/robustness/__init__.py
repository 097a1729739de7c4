"""How a model does on images that were perturbed to raise its loss or corrupted, and how well its
confidence fits its accuracy.
"""

from .attack_settings import AttackError, AttackSettings
from .calibration import CalibrationMetric
from .corruption_loop import CorruptionTestLoop
from .corruptions import CommonCorruption, CorruptionError
from .loop import RobustTestLoop
from .pixels import PixelAttack

__all__ = [
    'AttackError',
    'AttackSettings',
    'CalibrationMetric',
    'CommonCorruption',
    'CorruptionError',
    'CorruptionTestLoop',
    'PixelAttack',
    'RobustTestLoop',
]
