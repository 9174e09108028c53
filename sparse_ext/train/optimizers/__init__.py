"""What optimizers keep of sparse weights, whether it can follow changing patterns, and what their steps see."""
