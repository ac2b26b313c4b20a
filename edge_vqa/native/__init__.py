"""The borders to llama.cpp and to ONNX Runtime, and the trial of both on this CPU. In: how the libraries are to be used; out:
llama.cpp's calls, and ONNX sessions.

Open first: `bindings.py`.
"""
