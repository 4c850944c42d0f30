"""The world model: one computation on C x H x W frames, whether they are latents (JEDI) or images (DIAMOND)."""
