"""What the site knows about its own processes."""

from datetime import datetime, timedelta

from django.db import models


class ProcessHeartbeatQuerySet(models.QuerySet["ProcessHeartbeat"]):
    """Reads about processes."""

    def last_seen_at(self, process: str) -> datetime | None:
        """Return when any process of that name was last seen on any host, or None."""
        return self.filter(process=process).aggregate(last=models.Max("seen_at"))["last"]


class ProcessHeartbeat(models.Model):
    """The last sign of life of one process: `worker`, `enclave` or `beat`, on one host.

    A beat leaves no mark of its own: its row says when a task that it sent arrived at a worker, which
    proves beat, broker and worker together.
    """

    MAX_AGE = timedelta(seconds=30)

    process = models.CharField(max_length=40)
    host = models.CharField(max_length=255, blank=True)
    pid = models.PositiveIntegerField(null=True)
    seen_at = models.DateTimeField()

    objects = ProcessHeartbeatQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["process", "host"], name="heartbeat_once_per_process_and_host")]
        ordering = ["process", "host"]

    def __str__(self) -> str:
        return f"{self.process}@{self.host}" if self.host else self.process


class TaskFailure(models.Model):
    """A Celery task that ended with an error: which, where in the code, and since when; the newest 1,000 are kept.

    What the error says is not kept: its words may hold values, and values may be secrets. They are in the worker's
    log, whose filters know what to leave out.
    """

    task = models.CharField(max_length=200)
    error = models.CharField(max_length=200, help_text="The exception's class; of a refusal its code too.")
    place = models.CharField(max_length=300, blank=True, help_text="The innermost line of our own code.")
    failed_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.task}: {self.error}"
