"""`make torture`: break things on purpose, and count what is lost; one table, and rows in build/torture.json.

`python -m tests.torture bursts kills` runs some parts; each is a module here with a function `run(report)`.
"""

import importlib
import pkgutil
import signal
import sys
from pathlib import Path

from tests.torture.report import Report

OTHERS = ("__main__", "annotators", "machines", "namespaces", "report", "running")  # modules here that are no parts


def main() -> None:
    """Run the parts named, or all; exit status 1 if a goal was missed."""
    there = [found.name for found in pkgutil.iter_modules([str(Path(__file__).parent)]) if found.name not in OTHERS]
    names = sys.argv[1:] or there
    if unknown := set(names) - set(there):
        sys.exit(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that what parts have made is removed
    report = Report()
    for name in names:
        print(name)
        try:
            importlib.import_module(f".{name}", __package__).run(report)
        finally:
            report.write()
    if report.missed:
        sys.exit(f"missed: {'; '.join(report.missed)}")


if __name__ == "__main__":
    main()
