"""The configuration: TOML and environment -> validated tables."""
