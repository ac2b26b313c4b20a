"""Bundles: folders with an LM, a vision tower, a Selector and `bundle.json`. In: a name, a folder, a repository of the hub;
out: a checked `Bundle`. Nothing native is loaded: headers of gguf and ONNX files are judged, their weights are not read.

Open first: `manifest.py`, then `store.py`. `mini/` is the smallest model, data.
"""
