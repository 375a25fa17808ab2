"""Admission of slow requests, so that a webhook or /health never waits for a click.

The web server answers in a pool of threads. Requests that may take long, because they compute or wait for an image from
elsewhere, may occupy only a part of it: `SKYLIGHT_THREADS` of them are worked on, `MAX_WAITING` more wait for that or
for a download, and any beyond are refused at once. `SPARE_THREADS` are left for everything else.
"""

from flask import Flask, g, request

from skylight.backend.process.admission import Admission

SPARE_THREADS = 8
SLOW_ENDPOINTS = ("predict.predict", "page.picture")


def install(app: Flask, admission: Admission) -> None:
    """Have an application's slow requests ask for admission."""

    @app.before_request
    def enter() -> None:
        if request.endpoint in SLOW_ENDPOINTS:
            admission.enter()
            g.admitted = True

    @app.teardown_request
    def leave(error: BaseException | None) -> None:
        if g.pop("admitted", False):
            admission.leave()
