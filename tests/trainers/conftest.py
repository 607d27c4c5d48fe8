"""What every test of training uses."""

from tiny_training import cache

__all__ = ["cache"]
