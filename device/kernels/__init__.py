# SPDX-License-Identifier: Apache-2.0
"""What moves and changes values: compiled kernels, each with its NumPy form beside it. A leaf: imports no other room."""
