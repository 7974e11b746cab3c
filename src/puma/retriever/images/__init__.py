"""What image processors take, and how many tokens an image becomes."""
