"""A toy site."""
