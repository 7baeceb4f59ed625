"""The science of LAVQ: signals, data, text, models, training, metrics and pictures. Knows nothing of Flower."""
