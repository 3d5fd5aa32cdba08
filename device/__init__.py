# SPDX-License-Identifier: Apache-2.0
"""The accelerator: executes commands, in function and in time."""
