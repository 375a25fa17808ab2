"""What can go wrong in the service. Every message says what was wrong, which value, and what to do next."""

# What odd content of a task or an annotation could raise; it must not hold up all the others. Errors of the machine
# (Redis, the disk) are not among them.
DATA_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)


class Stopping(Exception):
    """The worker is to end: the job in hand gives up at a safe point, and is queued again. Not an error of anything."""


class SkylightError(Exception):
    """Base of all errors the service answers with; `status` is the HTTP status of the answer."""

    status: int = 500


class BadRequest(SkylightError):
    """What the caller sent cannot be used as it is."""

    status = 400


class Forbidden(SkylightError):
    """The caller has not shown that it may do this."""

    status = 403


class ConfigError(SkylightError):
    """The project's labeling configuration asks for something the service cannot give."""

    status = 422


class MediaError(SkylightError):
    """The picture of a task could not be fetched or read."""

    status = 502


class LabelStudioError(SkylightError):
    """Label Studio did not answer, or answered with an error."""

    status = 502


class Unavailable(SkylightError):
    """Something the service needs (Redis, a model) is not there now; the same call may work later."""

    status = 503


class InvalidRegion(SkylightError):
    """A region that Label Studio must not be given: it stores anything, and a wrong size locks the annotation."""

    status = 500
