"""The immutable log and the quarantine: the only room that speaks SQL on events.db."""
