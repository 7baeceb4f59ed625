"""The live view: a local page that follows a run's event log."""
