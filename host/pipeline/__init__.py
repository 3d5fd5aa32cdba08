# SPDX-License-Identifier: Apache-2.0
"""Between a diffusers pipeline and a device: the stand-in denoiser and one generation."""
