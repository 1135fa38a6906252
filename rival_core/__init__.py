"""RIVAL (arXiv 2305.18729) as pure functions: tensors in, tensors out.

Nothing here knows a host. Latents are float32 in the sigma coordinates of k-diffusion,
x = z / sqrt(alpha_bar), and `denoised` is the model's estimate of the clean latent, so the
predicted noise is eps = (x - denoised) / sigma and one DDIM step (eta = 0) is one Euler step.
"""
