"""What runs on a device: enrolment, sessions, local training, sealed and signed updates."""
