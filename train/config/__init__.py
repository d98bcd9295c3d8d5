"""What a person may set: one dataclass a kind of model, its defaults and what they mean."""
