"""Opens an untrusted image file safely and hands on plain RGB pixels; scales and cuts them as an encoder wants."""

from __future__ import annotations

import base64
import io
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from edge_vqa import untrusted
from edge_vqa.errors import EdgeVqaError

if TYPE_CHECKING:
    from edge_vqa.bundle import Preprocessing

MAX_PIXELS = 100_000_000  # 100 megapixels: larger than any phone's camera, 300 MB as RGB
MAX_BYTES = 256 * 2**20
# Formats whose decoders are Pillow's own and safe to run on untrusted bytes: no EPS (runs Ghostscript), no PDF.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12, annex B

Rgb: TypeAlias = npt.NDArray[np.uint8]
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | Rgb | Picture"


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright RGB picture: uint8 [height, width, 3]."""

    rgb: Rgb

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]


def open_picture(source: ImageSource) -> Picture:
    """Open a path, a data URI, the bytes of an image file, a PIL image or an RGB uint8 array.

    EXIF orientation is honoured, transparency is laid on white, 16 bits become 8, and of an animation the first frame is
    taken. Raises EdgeVqaError for anything that is not a picture of at most 100 megapixels, TypeError for other types.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
            raise EdgeVqaError(
                f"an array of {source.dtype} {list(source.shape)} is not a picture", "give uint8 [height, width, 3]"
            )
        _check_size(source.shape[1], source.shape[0], "the array")
        return Picture(np.ascontiguousarray(source))
    if isinstance(source, Image.Image):
        _check_size(*source.size, "the image")
        return _to_rgb(source, "the image")
    if not isinstance(source, (str, os.PathLike, bytes)):
        raise TypeError(f"image must be a path, bytes, a PIL image or an RGB array, not {type(source).__name__}")
    name, data = _read(source)
    stream, formats = io.BytesIO(data), list(FORMATS)
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        formats = [_heif(name)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning; the limit is checked below, before decoding
            image = Image.open(stream, formats=formats)
    except Image.DecompressionBombError:
        raise _too_large(name) from None
    except Exception:  # a decoder may raise anything on hostile bytes
        raise EdgeVqaError(f"{name} is not a picture that can be read", "give one of " + ", ".join(FORMATS)) from None
    with image:
        _check_size(*image.size, name)
        return _to_rgb(image, name)


def _heif(name: str) -> str:
    """Pillow's name of HEIF, the format of many phones, once the plugin that reads it is registered."""
    try:
        import pillow_heif
    except ImportError:
        raise EdgeVqaError(
            f"{name} is a HEIC picture, which needs pillow-heif", 'pip install "edge-vqa[heic]", or save it as JPEG'
        ) from None
    pillow_heif.register_heif_opener(thumbnails=False)
    return "HEIF"


def _read(source: str | os.PathLike[str] | bytes) -> tuple[str, bytes]:
    """What to call it, and the content of the file."""
    if isinstance(source, bytes):
        name, data = "the picture", source
        if len(data) > MAX_BYTES:
            raise EdgeVqaError(f"{name} has more than {MAX_BYTES >> 20} MB", "give a smaller picture")
    elif isinstance(source, str) and source.startswith("data:"):
        name, data = "the data URI", _inline(source)
    else:
        path = Path(source)
        name = str(path)
        if name.startswith(("http:/", "https:/")):
            raise EdgeVqaError(
                f"{source} is an address, not a file", "download it first: curl -sL ADDRESS | edge-vqa ask - QUESTION"
            )
        try:
            if path.is_dir():
                raise EdgeVqaError(f"{name} is a folder", "give an image file")
            if path.stat().st_size > MAX_BYTES:
                raise EdgeVqaError(f"{name} has more than {MAX_BYTES >> 20} MB", "give a smaller picture")
            data = untrusted.read_bytes(path, MAX_BYTES)
        except FileNotFoundError:
            raise EdgeVqaError(f"{name} does not exist", "check the path") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise EdgeVqaError(f"{name!r} cannot be read ({reason})", "check the path and its permissions") from None
    if not data:
        raise EdgeVqaError(f"{name} is empty", "give an image file")
    return name, data


def _inline(uri: str) -> bytes:
    """The bytes in a data URI (RFC 2397)."""
    head, _, body = uri.partition(",")
    try:
        content = unquote_to_bytes(body)
        return base64.b64decode(content, validate=True) if head.endswith(";base64") else content
    except ValueError:
        raise EdgeVqaError("the data URI is damaged", "give data:image/png;base64, and the file in base64") from None


def _too_large(name: str) -> EdgeVqaError:
    return EdgeVqaError(f"{name} has more than {MAX_PIXELS // 10**6} megapixels", "scale it down first")


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise EdgeVqaError(f"{name} has no pixels", "give an image file")
    if width * height > MAX_PIXELS:
        raise _too_large(name)


def _to_rgb(image: Image.Image, name: str) -> Picture:
    try:
        image.seek(0)
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits (and 32, which PNG and TIFF readers use for 16)
            deep = np.asarray(image).astype(np.float64)
            deep = deep / 257 if deep.max(initial=0) > 255 else deep
            image = Image.fromarray(np.clip(np.round(deep), 0, 255).astype(np.uint8))
        elif image.mode == "F":
            image = Image.fromarray(np.clip(np.nan_to_num(np.asarray(image)), 0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return Picture(np.array(image.convert("RGB")))
    except EdgeVqaError:
        raise
    except MemoryError:
        raise EdgeVqaError(f"{name} does not fit into memory", "scale it down first") from None
    except Exception as error:  # truncated or hostile data
        raise EdgeVqaError(f"{name} is damaged ({error})", "give an intact image file") from None


def _resample(preprocessing: Preprocessing) -> Image.Resampling:
    return Image.Resampling[preprocessing.resample.upper()]


def overview(picture: Picture, preprocessing: Preprocessing) -> Rgb:
    """The whole picture as one tile [tile, tile, 3]. At the encoder's own size the pixels pass unchanged."""
    side = preprocessing.tile
    if picture.size == (side, side):
        return picture.rgb
    return np.array(Image.fromarray(picture.rgb).resize((side, side), _resample(preprocessing), reducing_gap=3.0))


def slices(picture: Picture, preprocessing: Preprocessing) -> tuple[list[list[Rgb]], Rgb]:
    """Rows of tiles [tile, tile, 3], and the overview, as `transformers`' Idefics3ImageProcessor cuts them.

    The picture is scaled so that its longer side is `longest_edge`, then both sides up to multiples of `tile`. A picture
    that fits one tile yields no rows.
    """
    side, filter_ = preprocessing.tile, _resample(preprocessing)
    width, height = picture.size
    aspect = width / height
    if width >= height:
        width = preprocessing.longest_edge
        height = max(1, int(width / aspect))
        height += height % 2
    else:
        height = preprocessing.longest_edge
        width = max(1, int(height * aspect))
        width += width % 2
    scaled = Image.fromarray(picture.rgb).resize((width, height), filter_)
    aspect = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        height = math.ceil(max(1, int(width / aspect)) / side) * side
    else:
        height = math.ceil(height / side) * side
        width = math.ceil(max(1, int(height * aspect)) / side) * side
    scaled = scaled.resize((width, height), filter_)
    whole = np.array(scaled.resize((side, side), filter_))
    if width <= side and height <= side:
        return [], whole
    pixels = np.asarray(scaled)
    rows = [
        [np.ascontiguousarray(pixels[y : y + side, x : x + side]) for x in range(0, width, side)]
        for y in range(0, height, side)
    ]
    return rows, whole


def crop(picture: Picture, preprocessing: Preprocessing) -> Rgb:
    """The central square [tile, tile, 3] of a picture whose shorter side is scaled to `tile`, as CLIP's processor cuts it."""
    side, (width, height) = preprocessing.tile, picture.size
    if width <= height:
        width, height = side, max(side, int(side * height / width))
    else:
        width, height = max(side, int(side * width / height)), side
    scaled = _scaled(picture, width, height, preprocessing)
    x, y = (width - side) // 2, (height - side) // 2
    return np.ascontiguousarray(scaled[y : y + side, x : x + side])


def fitted(picture: Picture, detail: str, preprocessing: Preprocessing) -> Rgb:
    """The picture with both sides multiples of `tile`, its shape kept as far as that allows, within the tokens of `detail`.

    Source: smart_resize of `transformers`' Qwen2VLImageProcessor.
    """
    unit, (width, height) = preprocessing.tile, picture.size
    if max(width, height) > 200 * min(width, height):
        raise EdgeVqaError(f"a picture of {width} x {height} pixels is too thin for this model", "cut it first")
    most = preprocessing.low_tokens if detail == "low" else preprocessing.high_tokens
    columns, rows = (max(1, round(n / unit)) for n in (width, height))
    if columns * rows > most:
        shrink = math.sqrt(width * height / (most * unit**2))
        columns, rows = (max(1, math.floor(n / shrink / unit)) for n in (width, height))
    elif columns * rows < preprocessing.min_tokens:
        grow = math.sqrt(preprocessing.min_tokens * unit**2 / (width * height))
        columns, rows = (math.ceil(n * grow / unit) for n in (width, height))
    return _scaled(picture, columns * unit, rows * unit, preprocessing)


def shrunk(picture: Picture, detail: str, preprocessing: Preprocessing) -> Rgb:
    """The picture, scaled down where its longer side is above what `detail` allows."""
    most, (width, height) = preprocessing.tile if detail == "low" else preprocessing.longest_edge, picture.size
    scale = min(1.0, most / max(width, height))
    return _scaled(picture, max(1, round(width * scale)), max(1, round(height * scale)), preprocessing)


def _scaled(picture: Picture, width: int, height: int, preprocessing: Preprocessing) -> Rgb:
    if picture.size == (width, height):
        return picture.rgb
    return np.array(Image.fromarray(picture.rgb).resize((width, height), _resample(preprocessing)))
