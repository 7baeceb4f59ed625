"""Training steps of the detector and of separator and editor, on any device."""
