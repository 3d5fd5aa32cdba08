# SPDX-License-Identifier: Apache-2.0
"""Between a diffusers pipeline and a device: the accelerated denoiser and one generation."""
