"""Workstation side: a Hugging Face checkpoint in, a bundle out."""
