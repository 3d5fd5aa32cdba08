# SPDX-License-Identifier: Apache-2.0
"""What a layer costs: cycles, traffic, energy, and which mode Defo chooses; a record priced under any design."""
