"""The stages that come with jemb, one a file; `jemb/prepare/registry.py` finds them."""
