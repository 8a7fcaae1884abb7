"""What can go wrong with data, each a class of its own so that a caller can tell them apart."""


class DataError(ValueError):
    """A table that cannot be used as asked; the message says what to do."""


class DataMismatch(DataError):
    """A file has the right name but not the content that is registered."""


class UnknownData(DataError):
    """No data set of that name is registered."""


class DataMissing(DataError):
    """Registered data is not on this machine and could not be fetched. The command line exits 3."""
