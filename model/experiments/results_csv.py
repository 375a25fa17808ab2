"""The results of `skylight simulate`, in a CSV file from which an interrupted run is resumed."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

DECODERS = ("decoder", "decoder_true")  # trained on prompt-made masks, on the truth
OTHERS = ("unet", "unet_imagenet", "forest", "probe", "threshold")  # `baselines.BASELINES`
METHODS = DECODERS + OTHERS

Key = tuple[str, str, int, int, str, str, str, str]


class ResultsError(ValueError):
    """A results file cannot be continued; the message says which and what to do."""


@dataclass(frozen=True)
class Row:
    """One method, trained on so many images of a pack, measured on the pack's test images.

    None where a method does not give it: calibration and instances are the decoders' alone, effort is `decoder`'s.
    """

    pack: str
    method: str
    annotations: int  # images
    seed: int
    order: str
    sam: str  # encoder id
    split: str  # fingerprint of pool and test set
    recipe: str  # fingerprint of the method's settings and size
    test_images: int
    iou: float  # of the foreground, over all pixels of the test images
    boundary_f: float  # of the foreground, mean over the test images
    ece: float | None  # of the probabilities of all pixels of the test images
    ap50: float | None
    pq: float | None
    parts_ap50: float | None  # where connected components are taken for instances
    parts_pq: float | None
    refined_ap50: float | None  # where SAM is asked about each instance, see `refine`
    refined_pq: float | None
    train_seconds: float  # the embeddings given
    predict_seconds: float  # per image, the embedding given
    objects: int  # clicked in the annotated images
    clicks: float | None  # per object
    prompt_iou: float | None  # of the accepted masks with the truth, mean over objects
    hand_seconds: float | None  # effort per test image: outlined by hand,
    sam_seconds: float | None  # by clicks alone,
    preannotated_seconds: float | None  # and by putting the decoder's instances right,
    settled_seconds: float | None  # or only those that clicks would better

    @property
    def key(self) -> Key:
        """What a row is about; measured once."""
        about = self.pack, self.method, self.annotations, self.seed
        return *about, self.order, self.sam, self.split, self.recipe


COLUMNS = tuple(field.name for field in fields(Row))
WHOLE = {field.name for field in fields(Row) if field.type is int}
TEXT = {field.name for field in fields(Row) if field.type is str}


class Results:
    """The rows of a CSV file, written one by one as they are measured."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line torn by a crash is dropped. Raises ResultsError for another table."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            whole = (",".join(COLUMNS) + "\n").encode()
        if whole != data:
            path.write_bytes(whole)
        reader = csv.DictReader(io.StringIO(whole.decode()))
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ResultsError(
                f"{path} has other columns than this version writes, so its rows may be other methods' than today's; "
                "give another --out or move it away"
            )
        self.rows: list[Row] = [_row(line) for line in reader]

    def find(self, key: Key) -> Row | None:
        """The row of a key, if it was measured."""
        return next((row for row in self.rows if row.key == key), None)

    def add(self, row: Row) -> None:
        """Append a row, on disk at once."""
        self.rows.append(row)
        line = to_csv([{name: _text(value) for name, value in asdict(row).items()}], header=False)
        with self.path.open("a") as file:
            file.write(line)


def to_csv(rows: Sequence[dict[str, object]], header: bool = True) -> str:
    """Rows of one form as CSV text."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _row(line: dict[str, str]) -> Row:
    values: dict[str, object] = {}
    for name, text in line.items():
        if name in TEXT:
            values[name] = text
        elif name in WHOLE:
            values[name] = int(text)
        else:
            values[name] = float(text) if text else None
    return Row(**values)  # type: ignore[arg-type]
