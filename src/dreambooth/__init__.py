"""DreamBooth, measured: personalise a text-to-image latent diffusion model from 3 to 5 photos."""

__version__ = "0.1.0"
