"""configfs-tsm without a kernel that has it: what a binary attribute does when it is written, closed and read."""

import errno
import os

from enclave.core.attesters.configfs import ReportEntries

ENTRY = ("provider", "generation", "inblob", "outblob", "auxblob")


class _Open:
    """One open descriptor: `content` is filled at its first reading, `written` taken when it closes."""

    def __init__(self, name, attribute):
        self.name, self.attribute, self.written, self.content = name, attribute, None, None


class FakeEntries(ReportEntries):
    """Entries in memory with drivers/virt/coco/tsm.c's rules.

    `report` makes a report of 64 bytes; `certificates` is the auxblob; `on_commit` runs after a write
    was taken, where a test lets somebody else write. `entries` maps names to (inblob, generation).
    """

    def __init__(self, provider, report, certificates=b"", on_commit=lambda entries, name: None):
        self.provider, self.report, self.certificates, self.on_commit = provider, report, certificates, on_commit
        self.entries, self.open_descriptors, self.opened, self.refused_reads = {}, {}, 0, 0

    def names(self):
        if self.provider is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return sorted(self.entries)

    def create(self, name):
        if name in self.entries:
            raise FileExistsError(errno.EEXIST, "File exists")
        self.entries[name] = (b"", 0)

    def remove(self, name):
        del self.entries[name]

    def open(self, name, attribute, flags):
        assert attribute in ENTRY
        assert (flags & os.O_ACCMODE == os.O_WRONLY) == (attribute == "inblob")
        self.opened += 1
        self.open_descriptors[1000 + self.opened] = _Open(name, attribute)
        return 1000 + self.opened

    def write(self, descriptor, content):
        opened = self.open_descriptors.pop(descriptor)
        assert opened.attribute == "inblob"
        self.commit(opened.name, content)
        self.on_commit(self, opened.name)

    def commit(self, name, content):
        if name in self.entries:  # else the write is lost, and closing says nothing of it
            self.entries[name] = (content, self.entries[name][1] + 1)

    def read(self, descriptor):
        opened = self.open_descriptors.pop(descriptor)
        if opened.name not in self.entries:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        inblob, generation = self.entries[opened.name]
        if opened.attribute == "outblob" and self.refused_reads:
            self.refused_reads -= 1
            raise BlockingIOError(errno.EWOULDBLOCK, "Resource temporarily unavailable")
        match opened.attribute:
            case "provider":
                return f"{self.provider}\n".encode()
            case "generation":
                return f"{generation}\n".encode()
            case "auxblob":
                return self.certificates
        return self.report(inblob)
