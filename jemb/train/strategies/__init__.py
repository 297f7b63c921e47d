"""How processes share the work: Lightning's strategies under one law of gradients."""
