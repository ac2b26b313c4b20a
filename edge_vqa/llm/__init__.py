"""The language model: pieces of a prompt and image embeddings in, tokens and the trace of an answer out.

Open first: `engine.py`, the way of a question; `llama.py` is one llama.cpp context under it.
"""
