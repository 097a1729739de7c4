"""What A-FAN does to a feature, captured and drawn."""

from .canvas import save_png, to_rgb
from .capture import SiteFeatures, capture, first_sample
from .feature_maps import draw_site
from .view import CHANNELS, choose_view

__all__ = [
    'CHANNELS',
    'SiteFeatures',
    'capture',
    'choose_view',
    'draw_site',
    'first_sample',
    'save_png',
    'to_rgb',
]
