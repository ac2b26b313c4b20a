"""A pair of gguf files that somebody else converted -> what a bundle's manifest says about them.

What the runtime must know, how a picture is cut and what is written around it, is in the files' metadata.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from edge_vqa.bundles import gguf_file, store
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles.gguf_file import Header
from edge_vqa.bundles.manifest import Manifest, Preprocessing, Prompt, Quantisation, Runtime, Source, llama_cpp_version
from edge_vqa.bundles.template import CONTROL, Vocabulary, render
from edge_vqa.errors import EdgeVqaError

OTHER = "give the mmproj that belongs to it"
# clip.projector_type -> Hugging Face's model_type, what its chat template writes for a picture, what its processor puts around
PROJECTORS = {
    "idefics3": ("idefics3", "<image>", ("", "")),
    "qwen2vl_merger": ("qwen2_vl", "<|image_pad|>", ("", "")),
    "qwen2.5vl_merger": ("qwen2_5_vl", "<|image_pad|>", ("", "")),
    "qwen3vl_merger": ("qwen3_vl", "<|image_pad|>", ("", "")),
    "internvl": ("internvl", "<IMG_CONTEXT>", ("<img>", "</img>")),
    "gemma3": ("gemma3", "<start_of_image>", ("\n\n<start_of_image>", "<end_of_image>\n\n")),
    "lfm2": ("lfm2_vl", "<image>", ("<|image_start|>", "<|image_end|>")),
    "mlp": ("llava", "<image>", ("", "")),
    "pixtral": ("mistral3", "[IMG]", ("", "[IMG_END]")),
    "lightonocr": ("lighton_ocr", "<|image_pad|>", ("", "")),
    "glm4v": ("glm4v", "<|image|>", ("", "")),
    "paddleocr": ("paddleocr_vl", "<|IMAGE_PLACEHOLDER|>", ("", "")),
    "gemma4v": ("gemma4", "<|image|>", ("<|image>", "<image|>")),
    "janus_pro": ("janus", "<image_placeholder>", ("<begin_of_image>", "<end_of_image>")),
}
SINGLE = ("mlp",)  # trained on one picture a question
# projector -> the LMs that its tower was trained for, by llama.cpp's name; others go with several
TRAINED_FOR = {
    "qwen2vl_merger": ("qwen2vl",),
    "qwen2.5vl_merger": ("qwen2vl",),
    "qwen3vl_merger": ("qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe"),
    "gemma3": ("gemma3",),
    "gemma4v": ("gemma4",),
    "lfm2": ("lfm2", "lfm2moe"),
    "glm4v": ("glm4", "glm4moe"),
    "paddleocr": ("paddleocr",),
}
ROW_END = "v.token_embd.img_break"
# pictures of any shape: patches a token spans in each direction, where the file does not say
MERGED = {
    "qwen2vl_merger": 2,
    "qwen2.5vl_merger": 2,
    "qwen3vl_merger": 2,
    "glm4v": 2,
    "paddleocr": 2,
    "pixtral": 1,
    "gemma4v": 3,
}
LEAST = {"gemma4v": 70}  # tokens that the smallest picture is scaled to; else 4
TOGETHER = ("gemma4v",)  # a picture's tokens see each other, and must fit one call
# Longer side at low and high detail of pictures that llama.cpp itself cuts; tokens of a picture of Qwen-VL: what a small device
# can afford, where the processor allows up to 16,384
LOW_SIDE, HIGH_SIDE = 448, 1344
LOW_TOKENS, HIGH_TOKENS = 256, 1024
FILES = {"lm": "lm.gguf", "vision": "mmproj.gguf", "vision_onnx": "vision.onnx"}  # role -> name in a bundle
# ggml type number -> name
TYPES = {
    **{0: "f32", 1: "f16", 30: "bf16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 10: "q2_k", 11: "q3_k"},
    **{12: "q4_k", 13: "q5_k", 14: "q6_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 20: "iq4_nl"},
    **{21: "iq3_s", 22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16", 26: "i32", 28: "f64", 29: "iq1_m", 39: "mxfp4"},
}


def is_vision(header: Header) -> bool:
    """Whether a gguf holds a vision tower (mmproj) and not an LM."""
    return header.metadata.get("general.architecture") == "clip"


def type_of(header: Header) -> str:
    """The type that most weights of a gguf are stored in."""
    weights: Counter[str] = Counter()
    for shape, kind, _ in header.tensors.values():
        weights[TYPES.get(kind, str(kind))] += math.prod(shape)
    return weights.most_common(1)[0][0] if weights else "none"


def bits_per_weight(header: Header) -> float:
    """Mean bits of a weight over all tensors of a gguf, to four digits."""
    weights = sum(math.prod(shape) for shape, _, _ in header.tensors.values())
    return round(8 * sum(size for _, _, size in header.tensors.values()) / max(1, weights), 4)


def find_pair(folder: Path) -> tuple[Path, Path]:
    """The LM and the vision tower in a folder that holds one gguf of each."""
    files = sorted(folder.glob("*.gguf"))
    towers = [path for path in files if is_vision(gguf_file.read(path))]
    models = [path for path in files if path not in towers]
    if len(models) != 1 or len(towers) != 1:
        raise EdgeVqaError(
            f"{folder} holds {len(models)} language models and {len(towers)} vision towers (gguf), one of each is needed",
            "give a folder with one pair",
        )
    return models[0], towers[0]


def describe(
    lm: Header,
    vision: Header,
    *,
    instruction: str = "",
    max_tokens: int = 32,
    detail: str = "low",
    template: str | None = None,
    several: bool = True,
) -> tuple[str, Preprocessing, Prompt]:
    """Architecture, preprocessing and prompt of a pair. `template` replaces the chat template in the LM's file. several:
    whether it may be asked about several pictures at once, where its kind can.

    Raises EdgeVqaError for files that are no pair.
    """
    if is_vision(lm) or not is_vision(vision):
        raise EdgeVqaError("these two files are not a language model and a vision tower", "give the LM, then its mmproj")
    data = vision.metadata
    if lm.metadata.get("split.count", 1) != 1:
        raise EdgeVqaError("the language model comes in several parts", "merge them with llama-gguf-split --merge")
    projector = projector_of(vision)
    if not data.get("clip.has_vision_encoder"):
        raise EdgeVqaError("the mmproj file holds no vision encoder", "give the mmproj of a vision model")
    _check_pair(lm, vision, projector)
    unknown = (str(lm.metadata.get("general.architecture")), None, ("", ""))
    architecture, image_token, around = PROJECTORS.get(projector, unknown)
    words = _vocabulary(lm.metadata, template)
    try:
        preprocessing = _preprocessing(projector, vision)
    except (KeyError, TypeError, ZeroDivisionError):
        raise EdgeVqaError(f"the mmproj file lacks what its projector {projector!r} needs", "convert it again") from None
    written = partial(render, words, instruction=instruction, max_tokens=max_tokens, detail=detail)
    try:
        prompt = written(image_token, around, several=several and projector not in SINGLE)
    except EdgeVqaError:
        if image_token is None:
            raise
        # a template that knows nothing of pictures: llama.cpp writes what goes around them, which is nothing for LLaVA
        preprocessing = preprocessing if preprocessing.method == "crop" else _native()
        prompt = written(None)
    own = str(lm.metadata.get("tokenizer.chat_template", ""))  # ties the prompt to the file, whichever template it is from
    return architecture, preprocessing, replace(prompt, template_sha256=hashlib.sha256(own.encode()).hexdigest())


def projector_of(vision: Header) -> str:
    """What makes embeddings of what the tower sees, in llama.cpp's words."""
    data = vision.metadata
    return str(data.get("clip.projector_type") or data.get("clip.vision.projector_type") or "mlp")


def _is_known(projector: str) -> bool:
    """Whether llama.cpp's vision towers have a projector of that name: it is among the strings of their library."""
    package = importlib.util.find_spec("llama_cpp")
    assert package is not None and package.origin is not None
    names = ("libmtmd.so", "libmtmd.dylib", "mtmd.dll")
    found = [path for name in names for path in Path(package.origin).parent.glob(f"lib/{name}")]
    return not found or (projector.isascii() and projector.encode() + b"\0" in found[0].read_bytes())


def _check_pair(lm: Header, vision: Header, projector: str) -> None:
    """Raises EdgeVqaError for a tower that this llama.cpp does not know, or that was made for another LM."""
    if not _is_known(projector):
        raise EdgeVqaError(
            f"the installed llama.cpp ({llama_cpp_version()}) knows no projector {projector!r}",
            "pip install --upgrade llama-cpp-python, or use another model",
        )
    kind = str(lm.metadata.get("general.architecture"))
    if projector in TRAINED_FOR and kind not in TRAINED_FOR[projector]:
        wanted = " or ".join(TRAINED_FOR[projector])
        raise EdgeVqaError(f"a vision tower with projector {projector!r} goes with {wanted}, not with {kind}", OTHER)
    if projector in PROJECTORS and projector != "mlp":  # old files of LLaVA say how wide CLIP's text half was
        width, made = lm.metadata.get(f"{kind}.embedding_length"), vision.metadata.get("clip.vision.projection_dim")
        if made != width:
            raise EdgeVqaError(f"the mmproj makes embeddings of {made} numbers, the language model takes {width}", OTHER)
        words = lm.metadata.get("tokenizer.ggml.tokens")
        missing = [token for token in _around(projector) if isinstance(words, list) and token not in words]
        if missing:
            raise EdgeVqaError(f"the language model knows no {missing[0]}, which goes around this mmproj's pictures", OTHER)


def _around(projector: str) -> list[str]:
    """The tokens that stand around a picture, or for it."""
    _, picture, (before, behind) = PROJECTORS[projector]
    own = {"idefics3": ["<fake_token_around_image>", "<global-img>"]}.get(projector, [])
    return [*own, *(token for token in (picture, before.strip(), behind.strip()) if token)]


def lost_row_end(lm: Header, vision: Header) -> int | None:
    """The id of the token that ends a row of Pixtral's pictures, where the mmproj lacks its embedding: llama.cpp's converter
    leaves it out of checkpoints in Hugging Face's layout, and pictures then have no rows."""
    tokens = lm.metadata.get("tokenizer.ggml.tokens") or []
    if projector_of(vision) != "pixtral" or ROW_END in vision.tensors or "[IMG_BREAK]" not in tokens:
        return None
    return int(tokens.index("[IMG_BREAK]"))


def lost_gelu(vision: Header) -> bool:
    """Whether this is Gemma 4's tower as llama.cpp's converter writes it: without a word on its activation, which is GELU,
    where llama.cpp then takes x * sigmoid(1.702 x)."""
    told = {"clip.use_gelu", "clip.use_silu"} & set(vision.metadata)
    return projector_of(vision) == "gemma4v" and not told


def _native() -> Preprocessing:
    return Preprocessing(LOW_SIDE, HIGH_SIDE, 1, "bicubic", "native")


def _preprocessing(projector: str, vision: Header) -> Preprocessing:
    data = {key.removeprefix("clip.vision."): value for key, value in vision.metadata.items()}
    if projector == "idefics3":
        side = data["image_size"]
        tokens = (side // data["patch_size"] // data["projector.scale_factor"]) ** 2
        return Preprocessing(side, max(side, data.get("preproc_image_size", side)), tokens)
    if projector in MERGED:
        unit = data["patch_size"] * data.get("spatial_merge_size", data.get("projector.scale_factor", MERGED[projector]))
        ends = int(ROW_END in vision.tensors)
        most = HIGH_TOKENS // 2 if projector in TOGETHER else HIGH_TOKENS
        return Preprocessing(unit, unit, 1, "bicubic", "dynamic", LEAST.get(projector, 4), LOW_TOKENS, most, row_ends=ends)
    if projector == "lightonocr":
        unit, side = data["patch_size"] * data.get("spatial_merge_size", 1), data.get("preproc_image_size", data["image_size"])
        return Preprocessing(unit, side, 1, "bicubic", "longest", 1, (side // unit) ** 2, (side // unit) ** 2)
    if projector == "lfm2":
        unit = data["patch_size"] * data.get("projector.scale_factor", 2)
        return Preprocessing(unit, unit, 1, "bilinear", "dynamic", LOW_TOKENS // 4, LOW_TOKENS, LOW_TOKENS)
    if projector == "internvl" and "v.class_embd" in vision.tensors:
        side = data["image_size"]
        tokens = (side // data["patch_size"] // data["projector.scale_factor"]) ** 2
        most = most_patches(data.get("preproc_max_tiles", 12), tokens)
        return Preprocessing(
            side, side, tokens, "bicubic", "grid", data.get("preproc_min_tiles", 1), tokens, tokens * (most + 1)
        )
    if projector == "gemma3":
        side, factor = data["image_size"], data.get("projector.scale_factor", 4)
        return Preprocessing(side, side, (side // data["patch_size"] // factor) ** 2, "bilinear", "square")
    if projector == "janus_pro":
        side = data["image_size"]
        return Preprocessing(side, side, (side // data["patch_size"]) ** 2, "bicubic", "pad")
    if projector == "mlp" and "v.class_embd" in vision.tensors and "image_grid_pinpoints" not in data:
        side = data["image_size"]
        return Preprocessing(side, side, (side // data["patch_size"]) ** 2, "bicubic", "crop")
    return _native()


def most_patches(most: int, tokens: int) -> int:
    """How many patches of so many tokens a picture of InternVL is cut into: as many as it was made for, and a small device can
    afford."""
    return max(1, min(most, HIGH_TOKENS // tokens))


def _vocabulary(data: dict[str, Any], template: str | None) -> Vocabulary:
    template = template or data.get("tokenizer.chat_template")
    if not isinstance(template, str):
        raise EdgeVqaError("the language model's file holds no chat template", "give one with --chat-template FILE")
    tokens = data.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise EdgeVqaError("the language model's file holds no tokenizer", "convert it again")
    types = data.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    found = {role: data.get(f"tokenizer.ggml.{name}_token_id") for role, name in roles.items()}
    special = {role: number for role, number in found.items() if isinstance(number, int) and 0 <= number < len(tokens)}
    if len(types) != len(tokens) or CONTROL not in types:
        types = [CONTROL if i in special.values() else 1 for i in range(len(tokens))]
    sentencepiece = data.get("tokenizer.ggml.model") == "llama"
    return Vocabulary(
        tokens=tokens,
        types=types,
        special=special,
        chat_template=template,
        starts_with_bos=bool(data.get("tokenizer.ggml.add_bos_token", sentencepiece)),
        unicode="NFC" if data.get("tokenizer.ggml.pre") == "qwen2" else "",
    )


def adopt(
    lm: Path,
    vision: Path,
    output: Path,
    source: Source,
    *,
    force: bool = False,
    move: bool = False,
    name: str | None = None,
    version: str = "1",
    licence: str = "unknown",
    description: str = "",
    instruction: str = "",
    max_tokens: int = 32,
    detail: str = "low",
    template: str | None = None,
) -> Manifest:
    """Make a bundle of a gguf pair as it is; `move` takes the files away from where they are."""
    name = manifests.name_for(output, name)
    headers = gguf_file.read(lm), gguf_file.read(vision)
    architecture, preprocessing, prompt = describe(
        *headers, instruction=instruction, max_tokens=max_tokens, detail=detail, template=template
    )
    if lost_row_end(*headers) is not None:
        raise EdgeVqaError(f"{vision.name} lacks {ROW_END}, without which pictures have no rows", "convert float files here")
    with store.new_folder(output, force=force) as work:
        for path, file in ((lm, FILES["lm"]), (vision, FILES["vision"])):
            if move:
                shutil.move(path, work / file)
            else:
                shutil.copyfile(path, work / file)
        return write_manifest(
            work,
            name=name,
            version=version,
            licence=licence,
            description=description or f"{source.checkpoint}, {type_of(headers[0])}",
            source=source,
            architecture=architecture,
            quantisation=Quantisation("ready", type_of(headers[0]), bits_per_weight(headers[0]), type_of(headers[1])),
            prompt=prompt,
            preprocessing=preprocessing,
        )


def write_manifest(
    work: Path,
    *,
    name: str,
    version: str,
    licence: str,
    description: str,
    source: Source,
    architecture: str,
    quantisation: Quantisation,
    prompt: Prompt,
    preprocessing: Preprocessing,
) -> Manifest:
    """bundle.json beside the LM and the vision tower, or towers, that `work` holds."""
    files = {role: store.describe(work / name) for role, name in FILES.items() if (work / name).is_file()}
    manifest = Manifest(
        schema=manifests.SCHEMA,
        name=name,
        version=version,
        licence=licence,
        description=description,
        source=source,
        architecture=architecture,
        files=files,
        quantisation=quantisation,
        prompt=prompt,
        runtime=Runtime(llama_cpp_version(), preprocessing, "vision" if "vision" in files else "vision_onnx"),
    )
    (work / manifests.MANIFEST).write_text(manifests.render(manifest), encoding="utf-8")
    return manifest
