"""Contrastive fine-tuning: losses, data, the loop, and what it leaves behind."""
