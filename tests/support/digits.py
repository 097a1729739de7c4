"""The generator of digits, as a module."""

from afan_mm.cli import digits_voc

__all__ = ['digits_voc']
