# SPDX-License-Identifier: Apache-2.0
"""From a PyTorch module to a program: capture, calibrate, quantize, lower."""
