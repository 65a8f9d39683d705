"""Offline training: images in, a model bundle out."""
