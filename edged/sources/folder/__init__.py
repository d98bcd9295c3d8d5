"""Folders as a source."""
