"""Encoding without padding, also compiled."""
