"""The errors a user can meet. All are `NmsimError`, all say what, where and what was expected."""


class NmsimError(ValueError):
    """Base of every error nmsim raises on bad input. The command line turns it into exit code 2."""


class PatternError(NmsimError):
    """A pattern that is none, or a mask that does not follow its pattern."""


class EncodingError(NmsimError):
    """An unknown encoding, a mask that cannot be encoded, or a code outside its range."""


class BitstreamError(NmsimError):
    """A stream that is truncated, too long, or has padding bits that are not zero."""


class ContainerError(NmsimError):
    """A file that cannot be read as what it claims to be."""


class SpecError(NmsimError):
    """A hardware, workload or campaign file with an unknown, missing or malformed entry."""


class RowError(NmsimError):
    """A row of a table that matches nothing or misses a column."""
