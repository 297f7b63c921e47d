"""What every part stands on: errors, whole files, checked JSON and YAML, records, words of a text, progress."""
