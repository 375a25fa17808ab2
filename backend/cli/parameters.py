"""Options and parameter types that several commands have."""

import math
from typing import Any

import rich_click as click

PROJECT = click.option("--project", required=True, help="Its number in Label Studio's address.")
PROJECT_NUMBER = click.option(
    "--project", type=click.IntRange(1), required=True, help="Its number in Label Studio's address."
)
SAM = click.option("--sam", default="tiny", show_default=True, help="tiny, mobile_sam, vit_b, vit_l or vit_h.")


def split_list(text: str) -> tuple[str, ...]:
    """Split a comma-separated text into its items, stripped; empty ones are left out."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def name_list(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Callback of an option that takes names, as a,b; none of an empty text."""
    return split_list(value)


def number_list(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Callback of an option that takes positive whole numbers, as 1,2,5; returns them sorted, each once."""
    try:
        numbers = tuple(sorted({int(part) for part in value.split(",")}))
    except ValueError:
        numbers = ()
    if not numbers or numbers[0] < 1:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers from 1 on, as 1,2,5")
    return numbers


class Point(click.ParamType[Any]):
    """X,Y for a point on the object, X,Y,neg for one that is not."""

    name = "X,Y[,neg]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (x, y, positive)."""
        parts = str(value).split(",")
        try:
            if len(parts) == 2 or (len(parts) == 3 and parts[2] in ("neg", "pos")):
                return *_coordinates(parts[:2]), parts[2:] != ["neg"]
        except ValueError:
            pass
        return self.fail(f"{value!r} is not X,Y or X,Y,neg in pixels", param, ctx)


class Box(click.ParamType[Any]):
    """X0,Y0,X1,Y1 in pixels."""

    name = "X0,Y0,X1,Y1"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (x0, y0, x1, y1), the upper left corner first."""
        try:
            x0, y0, x1, y1 = _coordinates(str(value).split(","))
        except ValueError:
            return self.fail(f"{value!r} is not X0,Y0,X1,Y1 in pixels", param, ctx)
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _coordinates(parts: list[str]) -> tuple[float, ...]:
    """Finite numbers. Raises ValueError."""
    numbers = tuple(float(part) for part in parts)
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("a coordinate must be finite")
    return numbers
