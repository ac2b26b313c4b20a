"""What llama.cpp's own converter makes of our random checkpoints, written down for the tests.

    python -m tests.converters.upstream LLAMA_CPP [KIND ...] [--write]

LLAMA_CPP is a source tree of the llama.cpp inside the installed llama-cpp-python (vendor/llama.cpp of its source
distribution); it wants sentencepiece installed. For each architecture it prints the largest logit error against `transformers`
of our f32 pair and of llama.cpp's, on the same pictures and questions, and with --write stores names, shapes, metadata and its
error in tests/data/upstream/.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import load_file, save_file

from converters.convert import convert
from converters.files import tokenizer
from converters.files.checkpoint import Checkpoint
from converters.options import Options
from edge_vqa.bundles import gguf_file, ready, store
from edge_vqa.bundles.manifest import Source
from edge_vqa.pictures.open import open_picture
from tests.conftest import EXAMPLES
from tests.converters.random_checkpoints import make
from tests.converters.reference import Reference

STORED = Path(__file__).parent.parent / "data" / "upstream"
KINDS = (
    "gemma3",
    "idefics3",
    "internvl",
    "lfm2_vl",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "smolvlm",
)  # it takes LLaVA's class for Pixtral
# Two aspect ratios, two questions on each
ASKED = [(size, question) for size in ((300, 200), (120, 300)) for question in ("what is this? " * 5, "Is it red?")]

# Its tokenizer check knows published vocabularies by a hash; ours are small ones of the same kind. Idefics3's LM is only
# found under a class name that `transformers` does not write.
RUN = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
sys.path.insert(1, sys.argv[1] + "/gguf-py")
from conversion.base import TextModel
from pathlib import Path
pre = sys.argv[2]
TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
if not (Path(sys.argv[3]) / "tokenizer.model").is_file():
    TextModel._set_vocab_sentencepiece = TextModel._set_vocab_gpt2
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[3:]]
runpy.run_path(sys.path[0] + "/convert_hf_to_gguf.py", run_name="__main__")
"""


# Beginnings of tensors' names that `transformers` 5 writes, and what published checkpoints have
RENAMED = {
    "gemma3": (("vision_tower.", "vision_tower.vision_model."),),
    "internvl": (("vision_tower.", "model.vision_tower."), ("multi_modal_projector.", "model.multi_modal_projector.")),
    "lfm2_vl": (("model.vision_tower.", "model.vision_tower.vision_model."),),
}
# Class names that it looks for
CLASSES = {
    "idefics3": {"text_config": "VLlama3ForCausalLM"},
    "smolvlm": {"text_config": "VLlama3ForCausalLM"},
    "internvl": {"text_config": "Qwen2ForCausalLM", "vision_config": "InternVisionModel"},
    "lfm2_vl": {"text_config": "Lfm2ForCausalLM"},
}


def as_it_wants(checkpoint: Path, classes: dict[str, str], renamed: tuple[tuple[str, str], ...]) -> None:
    """What its converter looks for in published checkpoints, and `transformers` 5 does not write. classes: by part of the
    config, "" the whole."""
    path, weights = checkpoint / "config.json", checkpoint / "model.safetensors"
    config = json.loads(path.read_text())
    for part, name in classes.items():
        (config[part] if part else config)["architectures"] = [name]
    path.write_text(json.dumps(config))
    parts = load_file(weights)
    for old, new in renamed:
        parts = {new + name[len(old) :] if name.startswith(old) else name: part for name, part in parts.items()}
    save_file(parts, weights, {"format": "pt"})


def write_sentencepiece(checkpoint: Path) -> None:
    """tokenizer.model of a checkpoint with Gemma's kind of tokenizer."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    with Checkpoint(checkpoint) as opened:
        words = tokenizer.read(opened, opened.config["text_config"]["vocab_size"])
    made = proto.ModelProto()
    made.trainer_spec.model_type, made.trainer_spec.byte_fallback = proto.TrainerSpec.BPE, True
    made.normalizer_spec.add_dummy_prefix = False
    for token, score, type_ in zip(words.tokens, words.scores, words.types, strict=True):
        made.pieces.add(piece=token, score=score, type=type_)
    (checkpoint / "tokenizer.model").write_bytes(made.SerializeToString())


def convert_upstream(
    llama_cpp: Path, checkpoint: Path, folder: Path, pre: str, type_: str = "f32", flags: tuple[str, ...] = ()
) -> tuple[Path, Path]:
    """LM and mmproj, by llama.cpp's converter. pre: its name of the tokenizer's kind; flags: for the LM."""
    folder.mkdir(parents=True)
    for out, more in ((folder / "lm.gguf", flags), (folder / "mmproj.gguf", ["--mmproj"])):
        command = [sys.executable, "-c", RUN, str(llama_cpp), pre, str(checkpoint), "--outtype", type_, "--outfile", str(out)]
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
    return folder / "lm.gguf", folder / "mmproj.gguf"


def summary(path: Path) -> dict[str, Any]:
    """Tensors with their shapes, and metadata without long lists (vocabularies are compared by their tokens' number)."""
    header = gguf_file.read(path)
    short = {k: (len(v) if isinstance(v, list) and len(v) > 16 else v) for k, v in header.metadata.items()}
    return {"tensors": {name: list(shape) for name, (shape, _, _) in sorted(header.tensors.items())}, "metadata": short}


def largest_error(checkpoint: Path, folder: Path) -> float:
    """Largest first-token logit error of a bundle against `transformers`, as a share of the logits' range."""
    reference = Reference(checkpoint, store.read(folder))
    try:
        photo = Image.open(EXAMPLES / "cat.jpg")
        compared = [reference.compare(open_picture(photo.resize(size)), question, "low") for size, question in ASKED]
        return max(one.error for one in compared)
    finally:
        reference.close()


def main() -> None:
    llama_cpp, write = Path(sys.argv[1]), "--write" in sys.argv
    for kind in [name for name in sys.argv[2:] if name != "--write"] or KINDS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            checkpoint = make(folder / "checkpoint", kind, published=kind == "smolvlm")
            convert(checkpoint, folder / "ours", Options(quant="f32", vision_type="f32"))
            ours = largest_error(checkpoint, folder / "ours")
            as_it_wants(checkpoint, CLASSES.get(kind, {}), RENAMED.get(kind, ()))
            if kind == "gemma3":
                write_sentencepiece(checkpoint)
            pre = "qwen2" if "qwen" in kind or kind in ("internvl", "lfm2_vl") else "smollm"
            lm, vision = convert_upstream(llama_cpp, checkpoint, folder / "upstream", pre)
            made = ready.adopt(lm, vision, folder / "theirs", Source("upstream"))
            theirs = largest_error(checkpoint, folder / "theirs")
            print(f"{kind:<12} logit error / range: ours {ours:.2e}, llama.cpp's converter {theirs:.2e} ({made.architecture})")
            if write:
                STORED.mkdir(parents=True, exist_ok=True)
                stored = {"error": theirs, "lm": summary(lm), "vision": summary(vision)}
                (STORED / f"{kind}.json").write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
