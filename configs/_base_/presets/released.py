# A-FAN as its released code runs it; see there for the entries, and for what is different.
_base_ = '../../../afan_mm/presets/released.py'
