"""The whole journey on real data that every machine has: the docstrings of the installed Python packages.

Imports nothing: the processes that read docstrings need neither torch nor the journey.
"""
