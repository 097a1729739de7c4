# A-FAN as the paper has it; see there for the entries, and for what the paper does not say.
_base_ = '../../../afan_mm/presets/paper.py'
