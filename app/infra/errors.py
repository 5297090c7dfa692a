"""What can go wrong, in one tree. Each edge maps the four kinds once: the command line to exit codes, HTTP to statuses.

RoomlapseError
├── BadInput           exit 2, HTTP 400: what was asked or set makes no sense; ask or set something else
│   ├── BadTime            a time that cannot be read, or that leaves open which moment it means
│   ├── BadSettings        the settings do not work together
│   │   └── BadProjection      a file of ROOMLAPSE_PROJECTIONS is no projection, or takes what is taken
│   └── BadQuestion        a limit, a window, a cursor or a parameter that is none
├── NotThere           exit 1, HTTP 404: there is no such thing, or was none at that time
│   ├── NoData             there is no database where one is to be read
│   └── NotFound           there is no such room or event
├── NotNow             exit 1, HTTP 503: try again later, or after somebody else is done
│   ├── Unavailable        a read model cannot answer now
│   │   └── Behind             it has not read what the question has to see
│   ├── RebuildRunning     somebody else rebuilds the read models
│   ├── OtherWriter        somebody else writes the log, and this SQLite cannot be trusted with two
│   ├── DiskFull           the disk is full, but for what is reserved
│   └── NotStored          a callback is not known to be stored
│       ├── Overloaded         too many wait for the disk, or it takes too long already
│       └── DiskSlow           the disk took longer than the sender waits
└── Broken             exit 1, HTTP 503: something has to be mended first
    ├── NewerSchema        a newer version of this program made the file
    ├── WrongOwner         the data belongs to another application
    ├── BadBackup          what was written is not what the log holds
    ├── BadFile            a file to import is nothing that can be imported
    ├── ProjectionFailed   a projection raised on an event
    └── Corrupt            a file is not what was written
        ├── CorruptFile        SQLite can make no sense of it
        ├── CorruptEvent       an event in the log is not what was stored
        └── CorruptState       a saved state cannot be read

An error of SQLite itself (`sqlite.Error`) or of the system (`OSError`) is mapped like Broken. `Invalid` (a body breaks
a rule) and `Refused` (the sender gets an HTTP status) stand in `tencent`: they are answers of the receiver, not errors.
"""


class RoomlapseError(Exception):
    """Any error that this program reports by itself. The message is a sentence that says what to do where it can."""


class BadInput(RoomlapseError, ValueError):
    """What was asked or set makes no sense; the message says what to do instead."""


class BadTime(BadInput):
    """A time that cannot be read, or that leaves open which moment it means."""


class BadSettings(BadInput):
    """The settings do not work together."""


class BadProjection(BadSettings):
    """A file of ROOMLAPSE_PROJECTIONS is no projection, or takes a name or a table that is taken."""


class BadQuestion(BadInput):
    """The question makes no sense."""


class NotThere(RoomlapseError):
    """There is no such thing, or was none at that time."""


class NoData(NotThere):
    """There is no database where one is to be read."""


class NotFound(NotThere):
    """There is no such room or event, or was none at that time."""


class NotNow(RoomlapseError):
    """It cannot be done now; later it can."""


class Unavailable(NotNow):
    """A read model cannot answer now: it is being rebuilt, or its projection stopped."""


class Behind(Unavailable):
    """A read model has not yet read what the question has to see."""


class RebuildRunning(NotNow):
    """Somebody else is rebuilding the read models."""


class OtherWriter(NotNow):
    """Somebody else writes the log, and this SQLite cannot be trusted with two."""


class DiskFull(NotNow):
    """The disk is full, but for what is reserved."""


class NotStored(NotNow):
    """A callback is not known to be stored; the message says why."""


class Overloaded(NotStored):
    """Too many callbacks wait for the disk, or the disk has taken too long already."""


class DiskSlow(NotStored):
    """The disk took longer than the sender waits. The callback may still be stored: sent again, it is a duplicate."""


class Broken(RoomlapseError):
    """Something has to be mended first."""


class NewerSchema(Broken):
    """The database was made by a newer version of this program."""


class WrongOwner(Broken):
    """The data belongs to another application."""


class BadBackup(Broken):
    """What was written is not what the log holds."""


class BadFile(Broken):
    """A file to import is nothing that can be imported, or ends too early."""


class ProjectionFailed(Broken):
    """A projection raised on an event. It stops there; the log and the other projections go on."""

    def __init__(self, name: str, position: int, event_id: str, reason: str) -> None:
        super().__init__(name, position, event_id, reason)  # all of them: it has to cross from process to process
        self.name = name
        self.position = position
        self.event_id = event_id
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} stopped at position {self.position}, event {self.event_id}: {self.reason}"


class Corrupt(Broken):
    """A file is not what was written: somebody, or the disk, has changed it."""


class CorruptFile(Corrupt):
    """The file is there, but SQLite cannot make sense of it."""


class CorruptEvent(Corrupt):
    """An event in the log is not what was stored."""

    def __init__(self, event_id: str, reason: object) -> None:
        super().__init__(event_id, str(reason))  # all of them: it has to cross from process to process
        self.event_id = event_id
        self.reason = str(reason)

    def __str__(self) -> str:
        return f"event {self.event_id} in the log cannot be read ({self.reason}): run `roomlapse verify`"


class CorruptState(Corrupt):
    """A saved state is none, or not one of this projection."""


def reason_of(error: BaseException) -> str:
    """Say what was raised, as a checkpoint or a log line keeps it."""
    return f"{type(error).__name__}: {error}"
