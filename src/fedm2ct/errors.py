"""The root of every error that a user may meet: its message is one sentence with the remedy."""


class FedM2CTError(Exception):
    """An error to be shown to the user without a traceback."""
