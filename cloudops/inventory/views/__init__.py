"""Pages that change hosts, clusters and offerings, and the palette's search."""
