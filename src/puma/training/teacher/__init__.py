"""The teacher of self-distillation: the unpruned base's states, stored or computed beside the student."""
