"""``python -m afan_mm COMMAND`` is ``afan COMMAND``."""

from .cli.main import main

main()
