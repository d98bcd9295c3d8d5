"""The source and the sink that docs/extending.md shows, and a daemon that knows them."""
