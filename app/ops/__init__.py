"""The care of a data directory: verify, backup, doctor, import and export, and a simulated sender."""
