"""What the two benchmark commands are made of: shapes, modes, measuring, plotting."""
