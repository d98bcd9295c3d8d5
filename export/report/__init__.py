"""What people read of a model: the model card, its figures and pictures."""
