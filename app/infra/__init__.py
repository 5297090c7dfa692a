"""What every room stands on.

SQLite, files, errors, times, settings, logs, metrics, processes. Knows no room of the house.
"""
