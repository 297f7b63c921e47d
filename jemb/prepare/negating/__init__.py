"""The little English that rule-based negation needs. `negation.py` applies it."""
