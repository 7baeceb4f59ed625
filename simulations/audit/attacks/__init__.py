"""Attacks: what they score a patient by, on the detector, the codebook and twins."""
