"""The User-Agent by which Skylight fetches images."""

import functools
from importlib.metadata import PackageNotFoundError, metadata

PACKAGE = "label-studio-skylight"  # as the package index knows it: `skylight` is another project there


@functools.cache
def user_agent() -> str:
    """A User-Agent as `Skylight/0.1.0 (+address)`, by the package's metadata: its name, its version, where to ask.

    Without an address in the metadata (`project.urls` in pyproject.toml) it says what Skylight is.
    """
    try:
        package = metadata(PACKAGE)
    except PackageNotFoundError:  # run from a folder that was never installed
        return "Skylight (Label Studio ML backend)"
    links = [entry.partition(",")[2].strip() for entry in package.get_all("Project-URL") or ()]
    return f"Skylight/{package['Version']} ({f'+{links[0]}' if links else 'Label Studio ML backend'})"
