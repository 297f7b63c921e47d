"""The `jemb` command: overrides -> Hydra compose -> typed config -> one call. No logic of any other kind."""
