"""What the two benchmark commands share: shapes, the machine's rates, modes of decoding, steps of training."""
