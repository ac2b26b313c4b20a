"""How the embedded model was made: data, training, evaluation, packing."""
