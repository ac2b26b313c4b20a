"""What converting an 8B checkpoint takes: time and peak memory of the command, with real shapes and random weights.

    python -m tests.converters.large FOLDER [KIND ...] [--quant METHOD:TYPE]

FOLDER needs 25 GB free; what is written there is removed again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from converters import architectures
from tests.conftest import CHECKPOINT
from tests.converters import tokenizers
from tests.converters.random_checkpoints import CLIP_STATISTICS

# From a small process, as the peak of a process counts that of the one it began in
LAUNCH = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
SHARD = 5 * 10**9  # bytes, as published checkpoints have them
# config.json of HuggingFaceM4/Idefics3-8B-Llama3 and Qwen/Qwen2-VL-7B-Instruct
CONFIGS = {
    "idefics3": {
        "model_type": "idefics3",
        "scale_factor": 2,
        "image_token_id": 128257,
        "text_config": {
            **{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
            **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128259, "rms_norm_eps": 1e-5},
            **{"rope_theta": 500000.0, "max_position_embeddings": 131072},
        },
        "vision_config": {
            **{"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16},
            **{"image_size": 364, "patch_size": 14},
        },
    },
    "qwen2_vl": {
        **{"model_type": "qwen2_vl", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28},
        **{"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "rms_norm_eps": 1e-6},
        **{"rope_theta": 1000000.0, "max_position_embeddings": 32768, "tie_word_embeddings": False},
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": {
            "depth": 32,
            "embed_dim": 1280,
            "hidden_size": 3584,
            "num_heads": 16,
            "mlp_ratio": 4,
            "patch_size": 14,
        },
    },
}


def write(folder: Path, kind: str) -> int:
    """A checkpoint of random bfloat16 weights in shards; how many bytes of them."""
    folder.mkdir(parents=True)
    if kind == "qwen2_vl":
        tokenizers.qwen2(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(CLIP_STATISTICS | {"patch_size": 14, "merge_size": 2}))
    else:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"):
            shutil.copy(CHECKPOINT / name, folder / name)
    return write_weights(folder, CONFIGS[kind])


def write_weights(folder: Path, config: dict[str, Any]) -> int:
    """config.json, and random bfloat16 weights in shards of the shapes that it asks for; how many bytes of them."""
    (folder / "config.json").write_text(json.dumps(config))
    _, plan = architectures.plan(config, json.loads((folder / "preprocessor_config.json").read_text()))
    shapes = {
        rule.source: rule.shape for rule in (*plan.lm.values(), *plan.vision.values()) if rule.source not in plan.optional
    }
    noise = (np.random.default_rng(0).normal(0, 0.02, 1 << 26).astype(np.float32).view(np.uint32) >> 16).astype("<u2")
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        if size + 2 * int(np.prod(shape)) > SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += 2 * int(np.prod(shape))
    places = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header, at = {}, 0
        for name, shape in shard.items():
            end = at + 2 * int(np.prod(shape))
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
            places[name], at = file, end
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for shape in shard.values():
                left = int(np.prod(shape))
                while left:
                    stream.write(noise[: min(left, len(noise))].data)
                    left -= min(left, len(noise))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return sum(2 * int(np.prod(shape)) for shape in shapes.values())


def main() -> None:
    quant = sys.argv[sys.argv.index("--quant") + 1] if "--quant" in sys.argv else "rtn:q4_k_m"
    for kind in [name for name in sys.argv[2:] if name in CONFIGS] or CONFIGS:
        folder = Path(sys.argv[1]) / kind
        size = write(folder / "checkpoint", kind)
        began = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "converters",
            str(folder / "checkpoint"),
            "-o",
            str(folder / "bundle"),
            "--quant",
            quant,
        ]
        done = subprocess.run([sys.executable, "-c", LAUNCH, *command], stdout=subprocess.PIPE, text=True, check=True)
        status, peak = map(int, done.stdout.split())
        taken = (time.monotonic() - began) / 60
        made = sum(path.stat().st_size for path in (folder / "bundle").glob("*.gguf"))
        print(
            f"{kind}: {size / 1e9:.1f} GB of bfloat16 in shards -> {made / 1e9:.2f} GB ({quant}) in {taken:.1f} minutes,"
            f" at most {peak * 1024 / 1e9:.2f} GB of memory, status {status}",
            flush=True,
        )
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
