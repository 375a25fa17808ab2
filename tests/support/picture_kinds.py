"""One scene in files of many formats and kinds, as cameras, scanners, browsers and GIS programs write them."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageCms
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

ORIENTATION = 0x112
SHORT = 3
HEIGHT, WIDTH = 72, 104  # px
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


@dataclass(frozen=True)
class Kind:
    """A file. `mime` is empty if no browser shows it; `off` is how many levels what a browser draws may differ."""

    name: str
    data: bytes
    mime: str = ""
    off: int = 2
    only_size: bool = False  # a browser shows other levels: of 16 bits the upper 8
    turn: int = 1  # the orientation of what no browser shows
    only_gdal: bool = False  # Pillow does not know it, or not all of it

    @property
    def suffix(self) -> str:
        return self.name.split()[0]


def scene() -> NDArray[np.uint8]:
    """Smooth colours, none alike at two corners, with a black and a white disc, (HEIGHT, WIDTH, 3)."""
    rng = np.random.default_rng(7)
    small = rng.integers(30, 226, (5, 7, 3)).astype(np.uint8)
    image = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    cv2.circle(image, (25, 20), 9, (255, 255, 255), -1)
    cv2.circle(image, (80, 50), 11, (0, 0, 0), -1)
    return image


SCENE = scene()
PICTURE = Image.fromarray(SCENE)
GRAY = PICTURE.convert("L")
WHITE = (SCENE == 255).all(2)


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def exif(*entries: tuple[int, int, int, bytes], order: str = "<", tail: bytes = b"") -> bytes:
    """An EXIF block of entries (tag, type, count, value or place), with what lies behind its directory."""
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    for tag, kind, count, value in entries:
        out += struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")
    return out + struct.pack(f"{order}I", 0) + tail


def turned(number: int, order: str = "<") -> bytes:
    return exif((ORIENTATION, SHORT, 1, struct.pack(f"{order}H", number)), order=order)


def behind(count: int) -> bytes:
    """The place right behind a directory of `count` entries."""
    return struct.pack("<I", 8 + 2 + 12 * count + 4)


def with_segments(jpeg: bytes, *bodies: bytes) -> bytes:
    """A JPEG with APP1 segments before all others."""
    return jpeg[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(each) + 2) + each for each in bodies) + jpeg[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(png: bytes, *chunks: bytes, after: bool = False) -> bytes:
    """A PNG with chunks behind its header, or behind its pixels."""
    at = png.rindex(b"IEND") - 4 if after else 33
    return png[:at] + b"".join(chunks) + png[at:]


def png_of(pixels: NDArray[np.uint8], bits: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG of packed rows, (H, bytes), of a depth and a colour type."""
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + b"".join(chunks)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def packed(levels: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers (H, W) of so many bits, several in a byte."""
    each = np.unpackbits(levels[..., None], axis=2)[..., 8 - bits :]
    return np.packbits(each.reshape(len(levels), -1), axis=1)


def fixed(numbers: Iterable[float]) -> bytes:
    """Numbers as in ICC profiles."""
    return b"".join(struct.pack(">i", round(each * 65536)) for each in numbers)


def profile(device: bytes, colours: bytes, space: bytes, more: dict[bytes, bytes]) -> bytes:
    """An ICC profile with the tags that all have, and `more`."""
    white = (0.9642, 1.0, 0.8249)
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79)}
    tags |= {b"cprt": b"text" + bytes(4) + b"none" + bytes(4), b"wtpt": b"XYZ " + bytes(4) + fixed(white)} | more
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, device, colours, space)
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(white)
    return head.ljust(128, b"\0") + table + body


def icc(gamma: float, primaries: Iterable[tuple[float, float, float]] = ()) -> bytes:
    """An ICC profile of three colours (XYZ for D50), or of gray."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {}
    for letter, xyz in zip("rgb", primaries, strict=False):
        tags[f"{letter}XYZ".encode()] = b"XYZ " + bytes(4) + fixed(xyz)
        tags[f"{letter}TRC".encode()] = curve
    return profile(b"mntr", b"RGB " if tags else b"GRAY", b"XYZ ", tags or {b"kTRC": curve})


def ink_icc() -> bytes:
    """An ICC profile of printing inks: what each full tone of cyan, magenta, yellow and black is in Lab."""
    corners = b""
    for cyan, magenta, yellow, black in np.ndindex(2, 2, 2, 2):
        light = 255 * (1 - 0.9 * black) * (1 - 0.35 * cyan) * (1 - 0.45 * magenta) * (1 - 0.08 * yellow)
        a, b = 65 * magenta - 30 * cyan, 80 * yellow - 45 * cyan - 5 * magenta
        corners += bytes([round(light), 128 + a * (1 - black), 128 + b * (1 - black)])
    same = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed([1, 0, 0, 0, 1, 0, 0, 0, 1])
    return profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table + 4 * same + corners + 3 * same})


def raster(bands: NDArray[Any], driver: str = "GTiff", place: bool = False, **how: Any) -> bytes:
    """A file of GDAL's, of bands (N, H, W); `mask` (H, W), `palette`, `alpha` as its masks and colours."""
    mask, palette = how.pop("mask", None), how.pop("palette", None)
    where = {"crs": "EPSG:32632", "transform": rasterio.Affine(2, 0, 100, 0, -2, 500)} if place else {}
    count, height, width = bands.shape
    with (
        warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        MemoryFile() as memory,
    ):
        with memory.open(
            driver=driver, height=height, width=width, count=count, dtype=bands.dtype, **where, **how
        ) as file:
            file.write(bands)
            if mask is not None:
                file.write_mask(mask)
            if palette is not None:
                file.write_colormap(1, palette)
        return bytes(memory.read())


def jpegs() -> Iterator[Kind]:
    plain = saved(PICTURE, "JPEG", quality=92, subsampling=0)
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + XMP
    head, six = b"Exif\0\0", turned(6)
    made: dict[str, bytes] = {
        "plain": plain,
        "4:2:0": saved(PICTURE, "JPEG", quality=92),
        "gray": saved(GRAY, "JPEG", quality=92),
        "progressive": saved(PICTURE, "JPEG", quality=92, progressive=True),
        "cmyk": saved(PICTURE.convert("CMYK"), "JPEG", quality=92),
        "restarts": saved(PICTURE, "JPEG", quality=92, restart_marker_rows=1),
        "exif big-endian": with_segments(plain, head + turned(6, ">")),
        "exif long": with_segments(plain, head + exif((ORIENTATION, 4, 1, struct.pack("<I", 6)))),
        "exif count 2": with_segments(plain, head + exif((ORIENTATION, SHORT, 2, struct.pack("<HH", 6, 6)))),
        "exif byte": with_segments(plain, head + exif((ORIENTATION, 1, 1, b"\6"))),
        "exif ascii": with_segments(plain, head + exif((ORIENTATION, 2, 2, b"6\0"))),
        "exif rational": with_segments(
            plain, head + exif((ORIENTATION, 5, 1, behind(1)), tail=struct.pack("<II", 6, 1))
        ),
        "exif of 9": with_segments(plain, head + turned(9)),
        "exif header twice": with_segments(plain, head + head + six),
        "exif twice": with_segments(plain, head + turned(3), head + six),
        "exif in a damaged block first": with_segments(plain, head + b"damaged block", head + six),
        "exif behind xmp": with_segments(plain, xmp, head + six),
        "exif 1 beside xmp": with_segments(plain, head + turned(1), xmp),
        "xmp": with_segments(plain, xmp),
        "odd resolution": with_segments(
            plain,
            head + exif((ORIENTATION, SHORT, 1, b"\6\0"), (0x11A, 10, 1, behind(2)), tail=struct.pack("<ii", -1, 0)),
        ),
        "odd unit": with_segments(plain, head + exif((ORIENTATION, SHORT, 1, b"\6\0"), (0x128, 2, 2, b"in"))),
        "odd make": with_segments(plain, head + exif((0x10F, SHORT, 1, b"\1\0"), (ORIENTATION, SHORT, 1, b"\3\0"))),
        "odd width": with_segments(
            plain, head + exif((0x100, 11, 1, b"\0\0\xc0\x7f"), (ORIENTATION, SHORT, 1, b"\2\0"))
        ),
        "profile adobe": saved(PICTURE, "JPEG", quality=92, subsampling=0, icc_profile=icc(2.2, ADOBE_RGB)),
        "profile srgb": saved(PICTURE, "JPEG", quality=92, icc_profile=SRGB),
        "profile gray": saved(GRAY, "JPEG", quality=92, icc_profile=icc(1.8)),
        "profile of inks": saved(PICTURE.convert("CMYK"), "JPEG", quality=92, icc_profile=ink_icc()),
        "profile damaged": saved(PICTURE, "JPEG", quality=92, icc_profile=b"damaged" * 40),
    }
    made |= {f"exif {k}": with_segments(plain, head + turned(k)) for k in range(1, 9)}
    for name in ("plain", "4:2:0", "gray", "cmyk"):
        made |= {f"{name} without its end": made[name][:-2], f"{name} of its half": made[name][: len(made[name]) // 2]}
    made["turned of its half"] = made["exif 6"][: len(made["exif 6"]) // 2]
    for name, data in made.items():
        yield Kind(f"jpg {name}", data, "image/jpeg", off=8 if name == "profile of inks" else 2)
    # Where it was cut, decoders smooth blocks differently.
    progressive = made["progressive"]
    yield Kind("jpg progressive without its end", progressive[:-2], "image/jpeg", off=4)
    yield Kind("jpg progressive of its half", progressive[: len(progressive) // 2], "image/jpeg", off=60)


def pngs() -> Iterator[Kind]:
    plain, alpha = saved(PICTURE, "PNG"), PICTURE.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.where(WHITE, 0, 255).astype(np.uint8)))
    gray = np.asarray(GRAY)
    white = struct.pack(">HHH", 255, 255, 255)
    made = {
        "plain": plain,
        "gray": saved(GRAY, "PNG"),
        "1 bit": saved(PICTURE.convert("1"), "PNG"),
        "2 bits": png_of(packed(gray >> 6, 2), 2, 0),
        "4 bits": png_of(packed(gray >> 4, 4), 4, 0),
        "palette": saved(PICTURE.quantize(32), "PNG"),
        "palette with transparency": saved(PICTURE.quantize(32), "PNG", transparency=bytes([0, 255, 128])),
        "rgba": saved(alpha, "PNG"),
        "gray with alpha": saved(alpha.convert("LA"), "PNG"),
        "rgb with transparency": with_chunks(plain, chunk(b"tRNS", white)),
        "gray with transparency": saved(GRAY, "PNG", transparency=255),
        "exif 6": with_chunks(plain, chunk(b"eXIf", turned(6))),
        "exif 3 big-endian": with_chunks(plain, chunk(b"eXIf", turned(3, ">"))),
        "exif behind the pixels": with_chunks(plain, chunk(b"eXIf", turned(6)), after=True),
        "exif with a header": with_chunks(plain, chunk(b"eXIf", b"Exif\0\0" + turned(6))),
        "xmp": with_chunks(plain, chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + XMP)),
        "profile": saved(PICTURE, "PNG", icc_profile=icc(2.2, ADOBE_RGB)),
        "palette with profile": saved(PICTURE.quantize(32), "PNG", icc_profile=icc(2.2, ADOBE_RGB)),
        "gamma 1": with_chunks(plain, chunk(b"gAMA", struct.pack(">I", 100_000))),
        "gamma of srgb": with_chunks(plain, chunk(b"gAMA", struct.pack(">I", 45_455))),
        "without its end": plain[: plain.rindex(b"IEND") - 4],
        "wrong last sum": plain[:-1] + b"\0",
        "exif 7 of 4 bits": with_chunks(png_of(packed(gray >> 4, 4), 4, 0), chunk(b"eXIf", turned(7))),
    }
    for name, data in made.items():
        yield Kind(f"png {name}", data, "image/png")
    deep = np.ascontiguousarray(SCENE[..., ::-1]).astype(np.uint16) * 257
    colours = bytes(cv2.imencode(".png", deep)[1])
    yield Kind("png 16 bits", saved(Image.fromarray(gray.astype(np.uint16) * 250), "PNG"), "image/png", only_size=True)
    yield Kind("png 16-bit colours", colours, "image/png", only_size=True)
    yield Kind(
        "png 16-bit colours exif 6", with_chunks(colours, chunk(b"eXIf", turned(6))), "image/png", only_size=True
    )


def others() -> Iterator[Kind]:
    """What else a browser shows."""
    alpha = PICTURE.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.where(WHITE, 0, 255).astype(np.uint8)))
    more: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", PICTURE.size, "red")]}
    yield Kind("gif plain", saved(PICTURE.quantize(64), "GIF"), "image/gif")
    yield Kind("gif of several frames", saved(PICTURE.quantize(64), "GIF", **more, duration=10_000), "image/gif")
    yield Kind("gif with transparency", saved(PICTURE.quantize(64), "GIF", transparency=3), "image/gif")
    yield Kind("bmp plain", saved(PICTURE, "BMP"), "image/bmp")
    yield Kind("bmp palette", saved(PICTURE.quantize(64), "BMP"), "image/bmp")
    yield Kind("bmp 1 bit", saved(PICTURE.convert("1"), "BMP"), "image/bmp")
    lossless: dict[str, Any] = {"lossless": True, "exact": True}
    yield Kind("webp plain", saved(PICTURE, "WEBP", **lossless), "image/webp")
    yield Kind("webp lossy", saved(PICTURE, "WEBP", quality=90), "image/webp", off=3)
    yield Kind("webp rgba", saved(alpha, "WEBP", **lossless), "image/webp")
    yield Kind("webp exif 3", saved(PICTURE, "WEBP", **lossless, exif=b"Exif\0\0" + turned(3)), "image/webp")
    yield Kind("webp exif 6", saved(PICTURE, "WEBP", **lossless, exif=b"Exif\0\0" + turned(6)), "image/webp")
    yield Kind("webp xmp", saved(PICTURE, "WEBP", **lossless, xmp=XMP), "image/webp")
    yield Kind("webp profile", saved(PICTURE, "WEBP", **lossless, icc_profile=icc(2.2, ADOBE_RGB)), "image/webp")
    for k in (1, 2, 3, 5, 6, 7, 8):
        block = Image.Exif()
        block[ORIENTATION] = k
        yield Kind(f"avif exif {k}", saved(PICTURE, "AVIF", quality=90, exif=block), "image/avif", off=4)
    block = Image.Exif()
    block[ORIENTATION], block[0x10F] = 6, "Maker"
    odd = saved(PICTURE, "AVIF", quality=90, exif=block).replace(b"\x01\x0f\0\x02\0\0\0\6", b"\x01\x0f\0\x03\0\0\0\1")
    yield Kind("avif odd make", odd, "image/avif", off=4)
    yield Kind("avif xmp", saved(PICTURE, "AVIF", quality=90, xmp=XMP), "image/avif", off=4)
    yield Kind("avif rgba", saved(alpha, "AVIF", quality=90), "image/avif", off=4)


def rasters() -> Iterator[Kind]:
    """What no browser shows."""
    bands, gray = np.moveaxis(SCENE, 2, 0), np.asarray(GRAY)[None]
    index = PICTURE.quantize(16)
    numbers = np.asarray(index)[None]
    palette = {k: (*map(int, rgb), 255) for k, rgb in enumerate(np.reshape(index.getpalette(), (-1, 3))[:16])}
    opaque = np.where(WHITE, 0, 255).astype(np.uint8)
    made = {
        "plain": raster(bands),
        "tiled": raster(bands, tiled=True, blockxsize=32, blockysize=32, compress="lzw"),
        "big": raster(bands, BIGTIFF="YES"),
        "gray": raster(gray),
        "with a place": raster(bands, place=True),
        "jpeg": raster(bands, compress="jpeg", photometric="ycbcr"),
        "palette": raster(numbers, photometric="palette", palette=palette),
        "palette of 4 bits": raster(numbers, photometric="palette", palette=palette, NBITS=4, place=True),
        "white is 0": raster(255 - gray, photometric="miniswhite"),
        "white is 0 of 1 bit": raster(1 - (gray >> 7), photometric="miniswhite", NBITS=1),
        "white is 0 of 4 bits": raster(15 - (gray >> 4), photometric="miniswhite", NBITS=4),
        "1 bit": raster(gray >> 7, NBITS=1),
        "2 bits": raster(gray >> 6, NBITS=2),
        "4 bits": raster(gray >> 4, NBITS=4),
        "cmyk": saved(PICTURE.convert("CMYK"), "TIFF"),
        "nodata": raster(bands, place=True, nodata=255),
        "gray with nodata": raster(gray, place=True, nodata=255),
        "mask": raster(bands, mask=opaque),
        "alpha": raster(np.concatenate([bands, opaque[None]]), photometric="rgb", alpha="yes"),
        "gray with alpha": raster(np.concatenate([gray, opaque[None]]), alpha="yes"),
        "five bands": raster(np.concatenate([bands, gray, gray])),
        "int8": raster((gray.astype(np.int16) - 128).astype(np.int8)),
        "uint16": raster(bands.astype(np.uint16) * 9 + 1, nodata=0),
        "float with gaps": raster(np.where(WHITE, np.nan, gray / 7).astype(np.float32)),
    }
    for k in range(2, 9):
        made[f"turned {k}"] = saved(PICTURE, "TIFF", exif=turned(k))
    made["turned 6 tiled"] = with_orientation(made["tiled"], 6)
    made["turned 5 of nodata"] = with_orientation(made["nodata"], 5)
    made["turned 8 of 16 bits"] = with_orientation(made["uint16"], 8)
    gdal = ("big", "nodata", "mask", "alpha", "five bands", "white is 0 of 4 bits", "16")
    for name, data in made.items():
        turn = int(name.split()[1]) if name.startswith("turned") else 1
        yield Kind(f"tif {name}", data, turn=turn, only_gdal=any(each in name for each in gdal))
    lossless = {"QUALITY": "100", "REVERSIBLE": "YES"}
    yield Kind("jp2 gray", raster(gray, "JP2OpenJPEG", **lossless))
    yield Kind("jp2 rgb", raster(bands, "JP2OpenJPEG", **lossless))
    yield Kind("jp2 rgb with ycc", raster(bands, "JP2OpenJPEG", **lossless, YCC="YES", place=True))
    yield Kind("jp2 lossy", raster(bands, "JP2OpenJPEG", QUALITY="30"))
    yield Kind("jp2 16 bits", raster(bands.astype(np.uint16) * 9, "JP2OpenJPEG", **lossless))
    yield Kind("jp2 by Pillow", saved(PICTURE, "JPEG2000"))
    yield Kind("j2k codestream", raster(bands, "JP2OpenJPEG", **lossless, CODEC="J2K"))


def with_orientation(tiff: bytes, number: int) -> bytes:
    """A little-endian TIFF with the tag Orientation: its directory, with one entry more, behind all else."""
    start = struct.unpack_from("<I", tiff, 4)[0]
    count = struct.unpack_from("<H", tiff, start)[0]
    table = [tiff[start + 2 + 12 * k : start + 14 + 12 * k] for k in range(count)]
    table = [each for each in table if each[:2] != struct.pack("<H", ORIENTATION)]
    table = sorted([*table, struct.pack("<HHIHH", ORIENTATION, SHORT, 1, number, 0)], key=lambda each: each[1::-1])
    end = len(tiff) + len(tiff) % 2
    body = struct.pack("<H", len(table)) + b"".join(table) + tiff[start + 2 + 12 * count : start + 6 + 12 * count]
    return tiff[:4] + struct.pack("<I", end) + tiff[8:].ljust(end - 8, b"\0") + body


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MAKERS: tuple[Callable[[], Iterator[Kind]], ...] = (jpegs, pngs, others, rasters)


def kinds() -> list[Kind]:
    """All of them."""
    return [kind for make in MAKERS for kind in make()]
