"""From a stock config to one that trains with A-FAN."""

from .convert import Conversion, convert, converted
from .host import ConversionError

__all__ = ['Conversion', 'ConversionError', 'convert', 'converted']
