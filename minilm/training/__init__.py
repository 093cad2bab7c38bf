"""Contrastive fine-tuning: losses, data, recipes and the training loop."""
