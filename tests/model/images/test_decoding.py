import contextlib
import hashlib
import io
import struct
import warnings
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from skylight.model.images.decoding import ImageError, content_hash, decode, decode_raw
from tests.support.picture_kinds import raster

RNG = np.random.default_rng(20230513)
ORIENTATION = 0x0112


def file_of(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def colours(height: int = 24, width: int = 36) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how big it is, and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_the_content_hash_is_the_sha256_of_the_file() -> None:
    assert content_hash(b"skylight") == hashlib.sha256(b"skylight").hexdigest()
    assert content_hash(b"skylight") != content_hash(b"skylight ")


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000"])
def test_lossless_files_give_their_pixels(format: str) -> None:
    pixels = colours()
    if format == "GIF":
        pixels[:] = pixels[:, :1] // 64 * 64  # few colours, so that the palette holds them all
    options = {"lossless": True} if format == "WEBP" else {}
    image = decode(file_of(Image.fromarray(pixels), format, **options))
    assert (image.dtype, image.shape) == (np.uint8, (24, 36, 3))
    np.testing.assert_array_equal(image, pixels)


def test_a_jpeg_gives_nearly_its_pixels() -> None:
    pixels = np.repeat(np.repeat(colours(3, 5), 16, axis=0), 16, axis=1)
    image = decode(file_of(Image.fromarray(pixels), "JPEG", quality=95, subsampling=0))
    assert np.abs(image.astype(int) - pixels).mean() < 5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, format: str) -> None:
    picture = Image.fromarray(np.repeat(np.repeat(colours(3, 5), 16, axis=0), 16, axis=1))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    turned = decode(file_of(picture, format, exif=exif, **options))
    picture.getexif()[ORIENTATION] = orientation
    upright = np.asarray(ImageOps.exif_transpose(picture))
    assert turned.shape == ((48, 80, 3) if orientation <= 4 else (80, 48, 3))
    assert np.abs(turned.astype(int) - upright).mean() < 16  # colours are random: any other turn differs by 80 or so


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_stretched_to_the_percentiles(format: str) -> None:
    band = np.linspace(3000, 4000, 2000).astype(np.uint16).reshape(40, 50)
    band[0, 0], band[-1, -1] = 0, 65535  # outliers that would leave all else in one grey
    image = decode(file_of(Image.fromarray(band), format))
    assert image.shape == (40, 50, 3)
    assert (image[..., :1] == image).all()
    assert (image[0, 0, 0], image[-1, -1, 0]) == (0, 255)
    ramp = image[..., 0].ravel()[1:-1].astype(int)
    assert (np.diff(ramp) >= 0).all()
    assert abs(ramp[500] - 255 * (0.25 - 0.01) / 0.98) < 2
    assert len(np.unique(ramp)) > 200


def deep_file(pixels: NDArray[np.uint16], extension: str) -> bytes:
    """A file of 16-bit colours, (H, W, 3) RGB or (H, W, 4) RGBA, which Pillow cannot write."""
    order = [2, 1, 0, 3][: pixels.shape[2]]
    return bytes(cv2.imencode(extension, np.ascontiguousarray(pixels[..., order]))[1])


@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_sixteen_bit_colours_are_stretched_together(extension: str, bands: int) -> None:
    pixels = np.zeros((40, 50, bands), np.uint16)
    pixels[..., 0] = np.linspace(300, 700, 2000).reshape(40, 50)  # Pillow's 8 bits are 1 or 2
    pixels[..., 1], pixels[..., 2] = 300, 700
    pixels[..., 3:] = 65535
    image = decode(deep_file(pixels, extension))
    assert (image.shape, image.dtype) == ((40, 50, 3), np.uint8)
    assert (image[..., 1] == 0).all() and (image[..., 2] == 255).all()
    assert len(np.unique(image[..., 0])) > 200 and (np.diff(image[..., 0].ravel().astype(int)) >= 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bit_colours_are_turned_too(orientation: int) -> None:
    pixels = (RNG.integers(0, 256, (3, 5, 3)) * 257).astype(np.uint16)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    chunk = exif.tobytes().removeprefix(b"Exif\x00\x00")
    block = struct.pack(">I", len(chunk)) + b"eXIf" + chunk + struct.pack(">I", zlib.crc32(b"eXIf" + chunk))
    data = deep_file(pixels, ".png")
    picture = Image.fromarray(decode(data))
    picture.getexif()[ORIENTATION] = orientation
    turned = decode(data[:33] + block + data[33:])  # after the header
    np.testing.assert_array_equal(turned, np.asarray(ImageOps.exif_transpose(picture)))


def test_sixteen_bit_colours_that_cannot_be_read_whole_are_refused() -> None:
    data = deep_file(np.zeros((40, 50, 3), np.uint16) + 7, ".png")
    with pytest.raises(ImageError):
        decode(data[: len(data) // 2])


def test_a_turned_sixteen_bit_picture_is_turned_too() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    band = np.arange(200, dtype=np.uint16).reshape(10, 20) * 100
    image = decode(file_of(Image.fromarray(band), "PNG", exif=exif))
    assert image.shape == (20, 10, 3)
    assert image[0, -1, 0] < 10 < 240 < image[-1, 0, 0]


def test_missing_values_of_a_float_band_do_not_spoil_it() -> None:
    band = np.linspace(-4500, -4400, 900, dtype=np.float32).reshape(30, 30)
    band[:5] = np.float32(-3.4028227e38)
    band[5, :3] = np.nan, np.inf, -np.inf
    image = decode(file_of(Image.fromarray(band), "TIFF"))
    assert not image[:5].any() and not image[5, :3].any()
    assert len(np.unique(image[6:])) > 200


@pytest.mark.parametrize("value", [0.0, 7.0, float("nan")])
def test_a_flat_band_is_flat(value: float) -> None:
    assert not decode(file_of(Image.fromarray(np.full((4, 5), value, np.float32)), "TIFF")).any()


def test_the_few_other_pixels_of_a_flat_band_are_kept() -> None:
    band = np.full((50, 50), 1000, np.uint16)
    band[20, 20], band[30, 30] = 1010, 995
    image = decode(file_of(Image.fromarray(band)))
    assert (image[20, 20, 0], image[0, 0, 0], image[30, 30, 0]) == (255, 85, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_and_the_colours_under_it_kept(mode: str) -> None:
    picture = Image.fromarray(colours()).convert(mode)
    picture.putalpha(Image.fromarray(RNG.integers(0, 2, (24, 36)).astype(np.uint8) * 255))
    bare = picture.convert("RGBA")
    bare.putalpha(255)
    np.testing.assert_array_equal(decode(file_of(picture)), np.asarray(bare)[..., :3])


@pytest.mark.parametrize("transparency", [None, 3, bytes([0, 128, 255])])
def test_palettes_become_colours(transparency: object) -> None:
    index, palette = RNG.integers(0, 6, (10, 12)).astype(np.uint8), colours(1, 6)[0]
    picture = Image.fromarray(index)
    picture.putpalette(palette.ravel().tolist())
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(decode(file_of(picture, **options)), palette[index])


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    picture = Image.fromarray(colours()).convert(mode)
    np.testing.assert_array_equal(decode(file_of(picture, "TIFF")), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_of_several_frames_the_first_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    data = file_of(
        frames[0],
        format,
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if format == "WEBP" else {}),
    )
    assert (np.abs(decode(data).astype(int) - (255, 0, 0)) < 3).all()


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Pillow's remarks on damaged metadata
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_truncated_files_are_refused(format: str) -> None:
    data = file_of(Image.fromarray(colours(64, 64)), format)
    for length in {0, 1, 10, len(data) // 4, len(data) // 2, len(data) * 9 // 10}:
        with pytest.raises(ImageError):
            decode(data[:length])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_of_a_jpeg_that_was_cut_short_what_is_there_is_read_and_the_rest_is_black(mode: str, progressive: bool) -> None:
    pixels = np.repeat(np.repeat(colours(32, 32), 4, axis=0), 4, axis=1)
    data = file_of(Image.fromarray(pixels).convert(mode), "JPEG", quality=90, progressive=progressive)
    whole, rows = decode(data).astype(int), []
    cuts = [2, 20, len(data) // 4, len(data) // 2]
    if progressive:  # in the segment before a scan, too
        cuts += [len(data) - data.rindex(b"\xff\xc4") - 5, len(data) - data.rindex(b"\xff\xda") - 3]
    for cut in sorted(cuts):
        part = decode(data[:-cut])
        there = part.any((1, 2))
        rows.append(np.count_nonzero(there))
        assert part.shape == whole.shape and there[: rows[-1]].all()
        if not progressive:
            assert (part[: rows[-1]] == whole[: rows[-1]]).all()
    assert rows[0] >= 128 - 18 and rows == sorted(rows, reverse=True)
    assert rows[-1] == 128 if progressive else 0 < rows[-1] < 100
    if progressive:
        assert np.abs(decode(data[:-2]) - whole).max() <= 4
    head = data.index(b"\xff\xda")
    for length in (0, 1, 10, head):
        with pytest.raises(ImageError):
            decode(data[:length])


def test_a_jpeg_that_is_damaged_and_not_short_is_refused() -> None:
    data = file_of(Image.fromarray(colours(64, 64)), "JPEG", quality=90)
    at = data.index(b"\xff\xda") + 14
    with pytest.raises(ImageError, match="not a whole"):
        decode(data[: at - 40] + data[at:])


@pytest.mark.parametrize("kind", ["int8", "uint32"])
def test_numbers_of_a_tiff_that_pillow_takes_for_others_are_read_without_gdal(kind: str) -> None:
    band = (
        np.array([[-100, 0, 27, 127]], np.int8)
        if kind == "int8"
        else np.array([[0, 2**30, 2**31, 2**32 - 1]], np.uint32)
    )
    data = raster(band[None])
    assert (decode_raw(data) == band).all()


def test_a_tiff_is_turned_by_its_tag_alone_and_once() -> None:
    pixels = colours()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    odd = Image.Exif()
    odd[ORIENTATION], odd[0x10F] = 6, "Maker"
    data = file_of(Image.fromarray(pixels), "TIFF", exif=odd)
    entry = data.index(struct.pack("<HH", 0x10F, 2))
    data = data[: entry + 2] + struct.pack("<H", 3) + data[entry + 4 :]  # of numbers, for which Pillow has no text
    assert (decode(data) == np.rot90(pixels, -1)).all()
    assert (decode(file_of(Image.fromarray(pixels), "TIFF", tiffinfo={700: xmp})) == pixels).all()


@pytest.mark.parametrize("data", [b"", b"<html>please log in</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(1000)])
def test_what_is_not_a_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=f"{len(data)} bytes"):
        decode(data)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Pillow's remarks on damaged metadata
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "AVIF"])
def test_damaged_files_give_a_picture_or_an_image_error(format: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    options = {} if format in ("GIF", "BMP", "JPEG2000") else {"exif": exif}
    good = np.frombuffer(file_of(Image.fromarray(colours(40, 30)), format, **options), np.uint8)
    for _ in range(150):
        data = good.copy()
        at = RNG.integers(0, RNG.choice([100, len(data)]), RNG.integers(1, 6))
        data[at] = RNG.integers(0, 256, len(at))
        with contextlib.suppress(ImageError):
            assert decode(data.tobytes(), max_pixels=1_000_000).shape[2] == 3


def test_a_picture_with_too_many_pixels_is_refused_by_its_header() -> None:
    data = file_of(Image.fromarray(colours(10, 11)))
    assert decode(data, max_pixels=110).shape == (10, 11, 3)
    with pytest.raises(ImageError, match="11 x 10"):
        decode(data, max_pixels=109)
    for side in (10_001, 15_000, 60_000, 2**31 - 1):  # around Pillow's own warning and error
        with pytest.raises(ImageError, match=f"{side} x {side}"):
            decode(png_header(side, side))


def test_pillow_does_not_warn_of_a_picture_that_is_allowed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="not a whole"):  # read to its premature end, not stopped by a warning
            decode(png_header(9_900, 9_900))


def test_a_text_bomb_is_refused() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    with pytest.raises(ImageError):
        decode(file_of(Image.fromarray(colours()), pnginfo=info))
