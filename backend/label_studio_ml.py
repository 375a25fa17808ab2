"""The path by which release 0.1 was hosted by `label-studio-ml`; the class is in `skylight.backend.hosted`."""

from skylight.backend.hosted import Skylight

__all__ = ["Skylight"]
