"""Prometheus metrics: of requests and tasks from the processes themselves, of everything else from the database."""
