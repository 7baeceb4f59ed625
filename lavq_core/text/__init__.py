"""Reports as memory tokens for the separator."""
