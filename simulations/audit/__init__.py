"""Membership inference: attacks on what a run leaves behind, at the level of patients."""
