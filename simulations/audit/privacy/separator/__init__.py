"""The audit of the private training of separator, editor, prior network and codebook."""
