"""The commands of `edged`, one function each; `edged.cli` puts them together."""
