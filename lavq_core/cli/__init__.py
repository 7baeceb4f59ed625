"""The command line: ``lavq COMMAND``."""
