# SPDX-License-Identifier: Apache-2.0
"""The wire side of the device: sockets, runs and their replies, constants kept by content."""
