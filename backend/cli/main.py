"""The command line: `skylight --help`."""

import os
import sys
from typing import Any

import redis
import rich_click as click

from skylight.backend.cli.import_annotations import import_annotations
from skylight.backend.cli.map import export, map_, normalise
from skylight.backend.cli.model import cache, checkpoints, segment, simulate
from skylight.backend.cli.projects import connect, doctor, forget, precompute, rebuild, status
from skylight.backend.cli.servers import demo, serve, web, worker
from skylight.backend.cli.settings import settings
from skylight.backend.errors import SkylightError, Unavailable
from skylight.backend.images.user_agent import PACKAGE
from skylight.backend.process.supervisor import THREADS

GROUPS = {
    "Start": (demo, serve, connect, checkpoints, settings, web, worker),
    "Label": (import_annotations, precompute, segment),
    "Learn": (normalise, simulate),
    "Map": (map_, export),
    "Look after": (doctor, status, cache, rebuild, forget),
}
HELP_STYLE = {
    "theme": "default-nu",  # without boxes: it is also read in logs and files
    "force_terminal": None,  # rich-click would otherwise write color codes into the logs of GitHub's runners
}


class Skylight(click.RichGroup):
    """The command group, which says in one sentence that Redis does not answer, whichever the command is."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line. Errors are plain lines, as click prints them, that can be searched for and quoted."""
        return click.Group.main(self, *args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises Unavailable where it needs Redis, which does not answer or refuses."""
        try:
            return super().invoke(ctx)
        except redis.RedisError as error:
            step = "start `skylight serve`, or set REDIS_URL to where Redis is, and run this again"
            raise Unavailable(f"Redis does not answer ({error}); {step}") from error


@click.group(
    cls=Skylight,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "rich_help_config": HELP_STYLE,
    },
)
@click.version_option(package_name=PACKAGE)
def cli() -> None:
    """Skylight: a Label Studio ML backend that learns while you click.

    Segment Anything answers a click with a mask; every accepted annotation retrains a light decoder; the decoder
    pre-annotates what is still open.

    Start with `skylight demo` or, beside your own Label Studio, with `skylight serve`.
    """


for title, commands in GROUPS.items():
    for command in commands:
        cli.add_command(command)
    cli.add_panel(click.RichCommandPanel(title, commands=[str(command.name) for command in commands]))


def main() -> None:
    """Run the command line. Expected errors end in one line, not in a traceback."""
    for name, value in THREADS.items():  # also for a `skylight worker` of its own
        os.environ.setdefault(name, value)
    # NumPy, which these import, reads those variables.
    from skylight.model.images.decoding import ImageError
    from skylight.model.sam.checkpoints import CheckpointError

    try:
        cli()
    except (SkylightError, CheckpointError, ImageError) as error:
        click.secho(f"skylight: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
