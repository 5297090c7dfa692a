"""From the log to the read models.

folds, catching up, rebuilds, time travel, and the process that does it beside a server.
"""
