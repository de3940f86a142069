"""Grow neural networks while they train."""
