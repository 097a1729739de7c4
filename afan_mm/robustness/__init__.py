"""How a detector or a segmentor does on images that were perturbed to raise its loss."""

from .loop import RobustTestLoop
from .pixel_attack import PixelAttack
from .settings import AttackError, AttackSettings

__all__ = ['AttackError', 'AttackSettings', 'PixelAttack', 'RobustTestLoop']
