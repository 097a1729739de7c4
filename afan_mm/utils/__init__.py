"""What every part of the package shares: errors, checks, files, configs, checkpoints."""
