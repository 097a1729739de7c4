"""The components that put a site into a neck, a decode head or a RoI head."""

from .decode_head import AFANDecodeHead
from .neck import AFANNeckWrapper
from .roi_head import AFANRoIHead

__all__ = ['AFANDecodeHead', 'AFANNeckWrapper', 'AFANRoIHead']
