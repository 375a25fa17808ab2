"""As much of S3 as Label Studio and a presigned address need: one bucket over HTTP, whatever the signature."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from flask import Flask, Response, request
from werkzeug.serving import make_server


@contextmanager
def bucket(name: str, files: Mapping[str, bytes], seen: list[tuple[str, bool, bool]]) -> Iterator[str]:
    """Serve the files of a bucket and give the endpoint; `seen` gets path, presigned or not, and with an
    Authorization header or not, of each file asked for.
    """
    app = Flask("bucket")

    @app.route(f"/{name}", methods=["GET", "HEAD"])
    def head() -> Response:
        return Response()

    @app.get(f"/{name}/<path:key>")
    def get(key: str) -> Response:
        seen.append((key, "X-Amz-Signature" in request.args, "Authorization" in request.headers))
        return Response(files[key], mimetype="binary/octet-stream") if key in files else Response("no", 404)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
