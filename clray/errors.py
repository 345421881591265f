"""The errors that a person can mend. Every one ends a command with exit code 2 and one clear message."""


class UserError(ValueError):
    """A mistake in what was given to clray: says where, what, the limit, and the mend."""


class SpecError(UserError):
    """A stream file or an override that does not fit the specification."""


class DataError(UserError):
    """A source, record or example that cannot be trained or measured on."""


class NothingToLearn(DataError):
    """Mistakes, or knowledge to mend them with, that a round of an evolve stage looked for and did not find."""


class ModelError(UserError):
    """A base model, tokenizer or adapter that cannot be used as asked."""


class ResourceError(UserError):
    """More workers, devices or memory asked for than there are."""


class StorageError(UserError):
    """A storage path or tracking server that cannot be read or written."""


class TrackingError(StorageError):
    """MLflow does not answer, or refuses: `reason` in words; `refused` where it answered that it will not."""

    def __init__(self, message: str, reason: str = "", refused: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.refused = refused


class Terminated(KeyboardInterrupt):
    """The process got SIGTERM: it saves what runs, and leaves."""
