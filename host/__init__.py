# SPDX-License-Identifier: Apache-2.0
"""The PyTorch side: captures, quantizes and lowers a denoiser, streams it to a device, checks it."""
