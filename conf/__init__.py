"""Configuration values only (YAML), installed as the package `jemb_conf`; their meaning stands in `jemb/config/`."""
