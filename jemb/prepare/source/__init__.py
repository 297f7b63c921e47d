"""From what the user has to rows: which data sets there are, cut into parts, each part read."""
