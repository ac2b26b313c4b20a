"""Opens an untrusted image file safely and hands on plain RGB pixels."""

from __future__ import annotations

import base64
import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from edge_vqa.border import untrusted
from edge_vqa.errors import EdgeVqaError

if TYPE_CHECKING:
    pass

MAX_PIXELS = 100_000_000  # 100 megapixels: larger than any phone's camera, 300 MB as RGB
MAX_BYTES = 256 * 2**20
# Formats whose decoders are Pillow's own and safe to run on untrusted bytes: no EPS (runs Ghostscript), no PDF.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12, annex B

Rgb: TypeAlias = npt.NDArray[np.uint8]
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | Rgb | Picture | Sequence[ImageSource]"


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright RGB picture: uint8 [height, width, 3]. more: those that are shown behind it, to one question about all."""

    rgb: Rgb
    more: tuple[Picture, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]


def open_picture(source: ImageSource) -> Picture:
    """Open a path, a data URI, the bytes of an image file, a PIL image or an RGB uint8 array; or a list of these, for one
    question about them all.

    EXIF orientation is honoured, transparency is laid on white, 16 bits become 8, and of an animation the first frame is
    taken. Raises EdgeVqaError for anything that is not a picture of at most 100 megapixels, TypeError for other types.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, list | tuple):
        if not source:
            raise EdgeVqaError("no picture is given", "give one, or several")
        first, *rest = (one for opened in map(open_picture, source) for one in (replace(opened, more=()), *opened.more))
        return replace(first, more=tuple(rest))
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
        name, data = "the data URI", inline(source)
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


def inline(uri: str) -> bytes:
    """The bytes in a data URI (RFC 2397). Raises EdgeVqaError."""
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
