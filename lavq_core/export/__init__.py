"""A run's model for others: weights, model card, figures and ONNX in one folder with hashes."""
