"""What scripts/preflight.py checks before a launch: memory of a training step, checkpoint, data, machine."""
