"""Thin entry points; everything they do lives in src and evaluation."""
