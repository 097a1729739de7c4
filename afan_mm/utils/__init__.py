"""What every part of the package shares, and what imports none of them: errors, checks, files,
configs, checkpoints.
"""
