"""The Hydra tree: ``config.yaml`` and its presets. The keys are documented in ``lavq_core.settings``."""
