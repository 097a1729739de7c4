"""What the contracts need of their host."""

from support.exact import nms_in_double  # noqa: F401  a fixture for every test here
