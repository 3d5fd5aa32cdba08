"""The contract between host and device: instruction set, messages, tensors. Imports nothing of ours."""
