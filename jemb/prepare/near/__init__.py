"""The kernels and steps of near-duplicate detection: fold, sign, band, check; `near_duplicates.py` joins them."""
