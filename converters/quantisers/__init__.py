"""One file a method: a gguf in, a gguf with fewer bits out."""
