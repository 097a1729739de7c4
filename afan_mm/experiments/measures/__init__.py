"""What is measured after training; each measure is a function of a :class:`Trained` model."""

from . import basic  # noqa: F401  registers its measures
from .base import LOWER_IS_BETTER, MEASURES, Trained, measure

__all__ = ['LOWER_IS_BETTER', 'MEASURES', 'Trained', 'measure']
