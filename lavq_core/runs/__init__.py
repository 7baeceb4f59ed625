"""One run, one folder: where each file lies, the event log, and the weights with their manifest."""
