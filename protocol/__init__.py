# SPDX-License-Identifier: Apache-2.0
"""The contract between host and device: instruction set, messages, tensors. Imports nothing of ours."""
