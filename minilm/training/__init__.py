"""Contrastive fine-tuning: pairs, a loss, a recipe, and a loop that one can read and change."""
