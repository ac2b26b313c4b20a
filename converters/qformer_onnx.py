"""BLIP-2's tower and Q-Former as an ONNX graph: a ViT, then queries that attend to each other and to its patches.

Source: Li et al. 2023 (arXiv 2301.12597), section 3.1; InstructBLIP, whose queries attend to the question too: Dai et al. 2023
(arXiv 2305.06500), section 2.3; names after `transformers`' modeling_blip_2.py and modeling_instructblip.py.
"""

from __future__ import annotations

from converters.onnx_graph import CONTRIB, Graph


def reads(g: Graph) -> bool:
    """Whether the Q-Former reads the question."""
    return g.has("mm.token_embd.weight")


def build(g: Graph) -> str:
    """The graph's embeddings [queries, n_embd]."""
    features = _tower(g)
    epsilon = float(g.setting("clip.qformer.attention.layer_norm_epsilon"))
    queries = g.weight("mm.query")  # [queries, width]
    n, width = queries.shape
    x, text = g.constant(queries[None]), reads(g)
    if text:
        features = g.op("Concat", features, "seen", axis=0)
        g.output(features, "features")
        words = g.op("Gather", g.stored(g.weight("mm.token_embd.weight")), "question")
        places = g.stored(g.weight("mm.position_embd.weight"))
        count = g.op("Slice", g.op("Shape", "question"), g.ints(1), g.ints(2))
        x = g.op("Concat", x, g.op("Add", words, g.op("Slice", places, g.ints(0), count)), axis=1)
    x = g.norm(x, "mm.norm", epsilon)

    def attended(x: str, source: str, name: str) -> str:
        """Attention to `source`, added to x and normed, as BERT does it."""
        made = [g.named(x, f"{name}_q"), g.named(source, f"{name}_k"), g.named(source, f"{name}_v")]
        a = g.op("MultiHeadAttention", *made, domain=CONTRIB, num_heads=int(g.setting("clip.qformer.attention.head_count")))
        return g.norm(g.op("Add", x, g.named(a, f"{name}_out")), f"{name}_norm", epsilon)

    def fed(x: str, name: str) -> str:
        h = g.named(g.op("Gelu", g.named(x, f"{name}_up")), f"{name}_down")
        return g.norm(g.op("Add", x, h), f"{name}_norm", epsilon)

    layers = int(g.setting("clip.qformer.block_count"))
    for number in range(layers):
        block = f"mm.blk.{number}"
        x = attended(x, x, f"{block}.attn")
        asking = g.part(x, 0, n) if text else x
        if g.has(f"{block}.cross_q.weight"):
            asking = attended(asking, features, f"{block}.cross")
        asking = fed(asking, f"{block}.ffn")
        # behind the last layer nobody looks at the question's words
        x = (
            g.op("Concat", asking, fed(g.part(x, n, 2**31 - 1), f"{block}.text"), axis=1)
            if text and number + 1 < layers
            else asking
        )
    return g.named(g.op("Reshape", x, g.ints(n, width)), "mm.fc", exact=True)


def _tower(g: Graph) -> str:
    """A ViT with its class token in front [pictures, 1 + patches, width]."""
    x, _ = g.square()
    first = g.op("Mul", g.part(x, 0, 1), g.constant(0.0))  # as many as there are pictures
    first = g.op("Add", first, g.constant(g.weight("v.class_embd").reshape(1, 1, -1)))
    x = g.op("Concat", first, x, axis=1)
    return g.layers(g.op("Add", x, g.constant(g.weight("v.position_embd.weight"))), "v.post_ln")
