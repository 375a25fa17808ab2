"""Exceptions of the service. Every message says what was wrong, which value, and what to do next."""

# Errors that odd content of a task or an annotation may raise in the code that reads it; other tasks go on. Errors of
# the machine (Redis, the disk) are not among them.
DATA_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)
# Beside those, of an annotation that needs more memory than there is (torch raises RuntimeError) or more depth.
POISON_ERRORS = (*DATA_ERRORS, MemoryError, RuntimeError)

MAX_MESSAGE = 1000  # characters of an error: it names values, and those may be as long as a request


class Stopping(Exception):
    """The worker is to end: the current job stops at a safe point and is queued again. Not an error."""


class SkylightError(Exception):
    """Base of all errors the service answers with; `status` is the HTTP status of the answer."""

    status: int = 500

    def __str__(self) -> str:
        text = super().__str__()
        return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."


class BadRequest(SkylightError):
    """What the caller sent cannot be used as it is."""

    status = 400


class Forbidden(SkylightError):
    """The caller has not shown that it may do this."""

    status = 403


class TooLarge(SkylightError):
    """The request's body is larger than it may be."""

    status = 413


class ConfigError(SkylightError):
    """The project's labeling configuration asks for something the service cannot give."""

    status = 422


class MediaError(SkylightError):
    """The picture of a task could not be fetched or read."""

    status = 502


class LabelStudioError(SkylightError):
    """Label Studio did not answer, or answered with an error."""

    status = 502
    http_status: int = 0  # of its answer, 0 if none came


class NotFound(LabelStudioError):
    """Label Studio answered 404 by its own API: it has no such object."""


class Unavailable(SkylightError):
    """Something the service needs (Redis, a model) is not there now; the same call may work later."""

    status = 503


class InvalidRegion(SkylightError):
    """A region that Label Studio must not be given: it stores anything, and a wrong size locks the annotation."""

    status = 500


class DamagedFile(Unavailable):
    """A file of the store was damaged and has been quarantined; what it held is made again, or refused by name."""
