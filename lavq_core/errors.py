"""Errors a user can act on."""


class LavqError(Exception):
    """Something the user can put right.

    The message is one line that says what is wrong and what to do. Commands print it without a traceback and end with
    status 2; anything else that is raised is a bug and keeps its traceback.
    """


class DataError(LavqError):
    """A database folder, table or record that cannot be used."""


class ConfigError(LavqError):
    """A setting that does not exist or has an impossible value."""


class RunError(LavqError):
    """A run folder that is missing, is not one, or lacks what was asked of it."""


class PolicyError(LavqError):
    """What a site's own policy forbids, whoever asks for it."""
