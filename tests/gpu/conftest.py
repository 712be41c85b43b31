"""The real commands, as the end-to-end tests start them."""

from tests.e2e.conftest import start

__all__ = ["start"]
