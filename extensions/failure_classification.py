"""Failure classification: which errors of servers may be retried. Decided here only.

Drivers raise different classes for the same event: a server that is unreachable, full, starting,
or blocked by another transaction. Errors are classified by class, SQLSTATE, status code and
Redis's error code (the first word of a reply, which is protocol), never by English text. No
driver is imported here: code that raised an error has imported its classes.
"""

import errno
import sys
from collections.abc import Iterator
from enum import Enum
from typing import Any

from extensions.errors import SkewlessError, UnavailableError


class Outage(Enum):
    """Why a server is unavailable, as far as the error tells."""

    LOST = "the connection was refused or broke"
    TIMEOUT = "it took too long"
    FULL = "memory, disk or connections are used up"
    CONFLICT = "another transaction was in the way"
    NOT_READY = "it is starting, stopping, or not the one that takes writes"


# PostgreSQL, appendix A: whole classes by two characters, conditions by five.
_SQLSTATES: dict[str, Outage | None] = {
    "08": Outage.LOST,
    "53": Outage.FULL,
    "57014": Outage.TIMEOUT,
    "57P": Outage.LOST,
    "57P03": Outage.NOT_READY,
    "58": Outage.FULL,  # errors outside PostgreSQL: input and output
    "40": Outage.CONFLICT,
    "55P03": Outage.CONFLICT,
    "55006": Outage.CONFLICT,
    "25P": Outage.TIMEOUT,
    "25006": Outage.NOT_READY,
    "58P01": None,  # a file that is not there stays away
    "25P01": None,
    "25P02": None,
}
# ADBC's status codes, where the server sent no SQLSTATE.
_ADBC = {
    "IO": Outage.LOST,
    "INVALID_STATE": Outage.LOST,
    "CANCELLED": Outage.TIMEOUT,
    "TIMEOUT": Outage.TIMEOUT,
}
_REDIS = {
    "LOADING": Outage.NOT_READY,
    "MASTERDOWN": Outage.NOT_READY,
    "CLUSTERDOWN": Outage.NOT_READY,
    "TRYAGAIN": Outage.NOT_READY,
    "READONLY": Outage.NOT_READY,
    "NOREPLICAS": Outage.NOT_READY,
    "MISCONF": Outage.FULL,  # a snapshot or the append-only file could not be written
    "OOM": Outage.FULL,
    "BUSY": Outage.TIMEOUT,
    "MOVED": Outage.NOT_READY,
    "ASK": Outage.NOT_READY,
}
_REDIS_CLASSES = {
    "ConnectionError": Outage.LOST,
    "TimeoutError": Outage.TIMEOUT,
    "InvalidResponse": Outage.LOST,
    "OutOfMemoryError": Outage.FULL,
    "ReadOnlyError": Outage.NOT_READY,
    "ClusterDownError": Outage.NOT_READY,
    "ClusterError": Outage.NOT_READY,
    "RedisClusterException": Outage.LOST,
    "AskError": Outage.NOT_READY,
    "TryAgainError": Outage.NOT_READY,
}
# What no waiting mends, though its class is one of the above.
_REDIS_LASTING = ("AuthorizationError", "CrossSlotTransactionError", "InvalidPipelineStack")
# Of Kafka's errors, what another try would only meet again.
_KAFKA_LASTING = (
    "AuthorizationError",
    "IllegalArgumentError",
    "IllegalStateError",
    "InvalidConfigurationError",
    "InvalidRequestError",
    "InvalidTopicError",
    "InvalidGroupIdError",
    "KafkaConfigurationError",
    "MessageSizeTooLargeError",
    "PolicyViolationError",
    "RecordListTooLargeError",
    "SaslAuthenticationFailedError",
    "UnrecognizedBrokerVersion",
    "UnsupportedCodecError",
    "UnsupportedCompressionTypeError",
    "UnsupportedSaslMechanismError",
    "UnsupportedVersionError",
    "IncompatibleBrokerVersion",
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_LOST = (errno.EIO, errno.EPIPE, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN,
         errno.EHOSTUNREACH, errno.ENOTCONN, errno.EADDRNOTAVAIL)  # fmt: skip


def outage(error: BaseException) -> Outage | None:
    """Why a failure may be retried; None if a retry would fail the same way.

    A `SkewlessError` is classified by its cause; an `UnavailableError` without one is a conflict.
    """
    if isinstance(error, SkewlessError):
        if error.__cause__ is not None:
            return outage(error.__cause__)
        return Outage.CONFLICT if isinstance(error, UnavailableError) else None
    for read in (_of_psycopg, _of_adbc, _of_sqlalchemy, _of_redis, _of_kafka):
        known, found = read(error)
        if known:
            return found
    if isinstance(error, MemoryError):  # Arrow's is one, too
        return Outage.FULL
    return _of_system(error) if isinstance(error, OSError) else None


def of_a_server(error: BaseException) -> bool:
    """Whether a server or its driver raised the error, so that it is no bug in our own code."""
    readers = (_of_psycopg, _of_adbc, _of_sqlalchemy, _of_redis, _of_kafka)
    return any(read(error)[0] for read in readers) or outage(error) is not None


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class name if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _of_psycopg(error: BaseException) -> tuple[bool, Outage | None]:
    if not isinstance(error, _class("psycopg", "Error")):
        return False, None
    state = getattr(error, "sqlstate", None)
    if state:
        return True, _of_sqlstate(state)
    # The connection's own: without a server there is nobody to send a code.
    lost = (_class("psycopg", "OperationalError"), _class("psycopg", "InterfaceError"))
    return True, Outage.LOST if isinstance(error, lost) else None


def _of_adbc(error: BaseException) -> tuple[bool, Outage | None]:
    if not isinstance(error, _class("adbc_driver_manager", "Error")):
        return False, None
    told: Any = error
    if told.sqlstate:
        return True, _of_sqlstate(told.sqlstate)
    return True, _ADBC.get(told.status_code.name)


def _of_sqlalchemy(error: BaseException) -> tuple[bool, Outage | None]:
    if not isinstance(error, _class("sqlalchemy.exc", "SQLAlchemyError")):
        return False, None
    original = getattr(error, "orig", None)
    if original is not None:
        return True, outage(original)
    pool = isinstance(error, _class("sqlalchemy.exc", "TimeoutError"))
    return True, Outage.TIMEOUT if pool else None


def _of_redis(error: BaseException) -> tuple[bool, Outage | None]:
    module = "redis.exceptions"
    bases = (_class(module, "RedisError"), _class(module, "RedisClusterException"))
    if not isinstance(error, bases):
        return False, None
    if any(isinstance(error, _class(module, name)) for name in _REDIS_LASTING):
        return True, None
    if isinstance(error, _class(module, "ResponseError")):
        code = str(error).partition(" ")[0].rstrip(":")
        if code in _REDIS:
            return True, _REDIS[code]
    for name, found in _REDIS_CLASSES.items():
        if isinstance(error, _class(module, name)):
            return True, found
    return True, None


def _of_kafka(error: BaseException) -> tuple[bool, Outage | None]:
    module = "kafka.errors"
    if not isinstance(error, _class(module, "KafkaError")):
        return False, None
    if any(isinstance(error, _class(module, name)) for name in _KAFKA_LASTING):
        return True, None
    if isinstance(error, _class(module, "KafkaTimeoutError")):
        return True, Outage.TIMEOUT
    known = isinstance(error, _class(module, "KafkaConnectionError"))
    return True, Outage.LOST if known else Outage.NOT_READY


def _of_system(error: OSError) -> Outage | None:
    if isinstance(error, TimeoutError):
        return Outage.TIMEOUT
    name_lookup = isinstance(error, _class("socket", "gaierror"))
    if name_lookup or isinstance(error, ConnectionError) or error.errno in _LOST:
        return Outage.LOST
    return Outage.FULL if error.errno in _FULL else None


def _of_sqlstate(state: str) -> Outage | None:
    for part in _prefixes(state):
        if part in _SQLSTATES:
            return _SQLSTATES[part]
    return None


def _prefixes(state: str) -> Iterator[str]:
    """A SQLSTATE's prefixes, longest first: the condition, its subclass, its class."""
    return (state[:length] for length in (5, 3, 2))


class _Nothing:
    """Placeholder for a class that is not imported: no error is an instance of it."""


def _class(module: str, name: str) -> type:
    """A driver's class, where the driver is imported."""
    found: type = getattr(sys.modules.get(module), name, _Nothing)
    return found
