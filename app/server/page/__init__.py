"""The page: what a person asks in a browser, as links and forms that work without scripts."""
