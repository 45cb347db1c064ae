"""DreamBooth, measured: personalise a text-to-image latent diffusion model from 3 to 5 photos."""
