"""HTTP: the running node, its routes, its guards and its connections."""
