"""Config files with A-FAN's settings in the paper and in its released code, one entry for each task
and data set; ``configs/_base_/presets/`` has the same under the names that configs inherit from.
"""
