"""Between a diffusers pipeline and a device: the stand-in denoiser and one generation."""
