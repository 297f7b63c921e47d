"""The whole journey on real data that every machine has: the docstrings of the installed Python packages."""

from jemb.demo.journey import demo

__all__ = ["demo"]
