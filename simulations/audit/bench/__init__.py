"""The auditor's test bench: planted cases that it has to convict, and sound ones that it has to acquit."""
