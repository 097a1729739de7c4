"""Being written by a colleague: overwrite me."""


def allow_mmengine_checkpoints() -> None:
    pass
