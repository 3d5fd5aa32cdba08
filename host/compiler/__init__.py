"""From a PyTorch module to a program: capture, calibrate, quantize, lower."""
