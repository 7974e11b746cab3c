"""The mini base: a small language model and a small vision tower from wheels, joined by a closed-form projector."""
