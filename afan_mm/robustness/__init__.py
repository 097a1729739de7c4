"""How a detector or a segmentor does on images that were perturbed to raise its loss."""

from .attack_settings import AttackError, AttackSettings
from .loop import RobustTestLoop
from .pixels import PixelAttack

__all__ = ['AttackError', 'AttackSettings', 'PixelAttack', 'RobustTestLoop']
