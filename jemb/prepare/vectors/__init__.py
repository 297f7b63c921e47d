"""Vectors of texts, and scores between them, for `consistency.py` and `mine.py`."""
