"""What is measured after training; each measure is a function of a :class:`Trained` model."""

from . import basic, robustness  # noqa: F401  register their measures
from .base import (
    HANDS_ON,
    MEASURES,
    Trained,
    check_settings,
    larger_is_better,
    measure,
    plain_figures,
)

__all__ = [
    'HANDS_ON',
    'MEASURES',
    'Trained',
    'check_settings',
    'larger_is_better',
    'measure',
    'plain_figures',
]
