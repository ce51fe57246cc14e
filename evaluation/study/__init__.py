"""A grid of training variants x seeds x decoders: what is measured of every cell, and what the numbers say."""
