"""Files in and out: a Hugging Face checkpoint or a float gguf in; its tensors by name as `Half`, an LM or a vision tower;
gguf out.

Open first: `parts.py`.
"""
