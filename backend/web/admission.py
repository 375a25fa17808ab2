"""Who is worked for, who waits, and who is turned away, so that a webhook or /health never waits for a click.

The web server answers in a pool of threads. Requests that may take long, since they wait for a picture from elsewhere
or compute, may fill only a part of it: `SKYLIGHT_THREADS` of them are worked on, `WAITING` more wait for that or for a
download, and what comes beyond is refused at once. `SPARE` threads are left for everything else.
"""

from flask import Flask, g, request

from skylight.backend.process.admission import Admission

SPARE = 8
SLOW = ("predict.answer", "page.picture")  # endpoints


def watch(app: Flask, admission: Admission) -> None:
    """Have an application's slow requests ask for admission."""

    @app.before_request
    def enter() -> None:
        if request.endpoint in SLOW:
            admission.enter()
            g.admitted = True

    @app.teardown_request
    def leave(error: BaseException | None) -> None:
        if g.pop("admitted", False):
            admission.leave()
