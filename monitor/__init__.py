"""The security monitor: rules over the events of the log, incidents, answers to them, notifications."""
