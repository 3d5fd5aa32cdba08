# SPDX-License-Identifier: Apache-2.0
"""What recorded runs and models say: similarity, sensitivity, quality, replays."""
