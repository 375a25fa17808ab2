"""The packages of pyproject.toml: the folders backend/ and model/ are imported as skylight.backend and
skylight.model."""

from setuptools import find_packages, setup

setup(packages=[f"skylight.{name}" for name in find_packages(include=["backend", "backend.*", "model", "model.*"])])
