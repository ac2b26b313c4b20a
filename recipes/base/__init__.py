"""How the base model is made: pretrained eyes and a pretrained LM, joined, taught and quantised."""
