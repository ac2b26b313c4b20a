"""`python -m selector_onnx`"""

from selector_onnx.cli import main

main()
