"""Between a diffusers pipeline and a device: the accelerated denoiser and one generation."""
