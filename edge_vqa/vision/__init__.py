"""The picture becomes numbers: RGB pixels in, image embeddings and their positions out, by llama.cpp's tower or an ONNX graph.

Open first: `tower.py`.
"""
