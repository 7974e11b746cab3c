"""What must be whole after a kill. Loads no torch."""
