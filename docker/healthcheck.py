"""Whether the web server of this container answers: exit status 0 or 1. Standard library only, so that it is quick."""

import sys
from http.client import HTTPConnection, HTTPException

HOST, PORT, SECONDS = "127.0.0.1", 9090, 4.0


def main(port: int) -> int:
    """Ask for /health, which needs no login."""
    connection = HTTPConnection(HOST, port, timeout=SECONDS)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        print(f"http://{HOST}:{port}/health: {error}")
        return 1
    finally:
        connection.close()
    print(f"http://{HOST}:{port}/health: {status}")
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else PORT))
