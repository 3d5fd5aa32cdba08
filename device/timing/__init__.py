# SPDX-License-Identifier: Apache-2.0
"""Transaction-level models of time; each file opens with its cycle contract."""
