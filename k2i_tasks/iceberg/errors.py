"""From the exceptions of PyIceberg and what it stands on to ours.

Two ways in, by what is known after a failure: `translated` for reads, metadata calls and files,
where a failure means that nothing happened that matters; `commit_outcome` for a commit that was
sent, where a failure means nothing until the table has been read again.

Messages name the exception and its first line, with whatever looks like a login taken out.
"""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import requests
from pydantic import ValidationError as MalformedAnswer
from pyiceberg import exceptions as ice

from k2i_tasks.errors import (
    CommitConflictError,
    CommitStateUnknownError,
    Component,
    ConfigError,
    K2IError,
    SchemaConflictError,
    ServiceError,
    TransientError,
)

_REFUSED = (ice.UnauthorizedError, ice.ForbiddenError, ice.OAuthError, ice.SignError)
_ABSENT = (ice.NoSuchTableError, ice.NoSuchNamespaceError, ice.NoSuchIdentifierError)
_BUSY = (
    ice.ServiceUnavailableError,
    ice.ServerError,
    ice.TooManyRequestsError,
    ice.AuthorizationExpiredError,
    ice.CommitFailedException,
    ice.CommitStateUnknownException,
    ice.WaitingForLockException,
    MalformedAnswer,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)
#: What decodes files in PyIceberg: module -> beginning of the qualified names there.
_DECODERS = {"pyiceberg.avro.file": "AvroFile", "pyiceberg.serializers": "From"}
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_RIGHT = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_PLACE = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP})
_DENIED = re.compile(
    r"ACCESS_DENIED|AccessDenied|InvalidAccessKeyId|INVALID_ACCESS_KEY_ID|SignatureDoesNotMatch"
    r"|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN_ID|HTTP status 40[13]|AWS Error \[code 15\]"
    r"|status: 40[13]|\b(Forbidden|Unauthorized)\b",
)
_AWS_DENIED = re.compile(r"AccessDenied|UnrecognizedClient|InvalidSignature|ExpiredToken")
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket|ContainerNotFound", re.IGNORECASE)
_SECRETS = (
    re.compile(r"(?i)(bearer|basic)\s+[\w.~+/=-]+"),
    re.compile(
        r"(?i)((?:[\w.-]*(?:secret|password|passwd|token|credential|signature|access[-_]?key)"
        r"[\w.-]*))[\"']?\s*[=:]\s*[\"']?[^\s\"'&,;}]+"
    ),
    re.compile(r"(?i)([a-z][a-z0-9+.-]*://)[^/\s@]+@"),
)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turns third-party exceptions of one read, metadata call or file operation into ours.

    Args:
        doing: what is being done and to what, such as `reading table db.events`.

    Raises:
        ServiceError: refused for good (login, rights, no such table, full or read-only disk).
        TransientError: away, busy, too slow, or garbled: may be tried again.
        SchemaConflictError: the table's rules forbid the change.
    """
    try:
        yield
    except K2IError:
        raise
    except Exception as error:
        raise translate(doing, error) from error


@contextmanager
def commit_outcome(doing: str) -> Iterator[None]:
    """Turns each failure of a sent commit into one of three: conflict, refused, unknown.

    PyIceberg retries and cleans up on exceptions of its own only; none of those leaves here.

    Raises:
        CommitConflictError: told that another writer was first; may have landed all the same.
        ServiceError: no right to commit, or the disk is full, read-only or broken.
        CommitStateUnknownError: anything else.
    """
    try:
        yield
    except K2IError:
        raise
    except (ice.CommitFailedException, ice.WaitingForLockException) as error:
        raise CommitConflictError(_sentence(doing, error)) from error
    except Exception as error:
        found = translate(doing, error)
        if _is_refusal(error, found):
            raise found from error
        raise CommitStateUnknownError(
            _sentence(doing, error), remedy="The table is read before anything else is done."
        ) from error


def _is_refusal(error: Exception, found: K2IError) -> bool:
    """Whether a commit certainly was not done: no right, no space.

    Such errors are those that name a remedy; what is merely not understood (a 400 by way of a
    proxy, a garbled answer, a table that is suddenly not there) stays unknown.
    """
    if isinstance(error, (*_ABSENT, FileNotFoundError)):
        return False
    return isinstance(found, ConfigError) or (
        isinstance(found, ServiceError) and found.remedy != ""
    )


def translate(doing: str, error: Exception) -> K2IError:
    """The error of ours that says what `error` means; unknown ones are not retried."""
    if isinstance(error, _ABSENT):
        return ServiceError(
            _sentence(doing, error),
            component=Component.ICEBERG,
            remedy="Create it, or correct iceberg.database_name and iceberg.table_name.",
        )
    if isinstance(error, _REFUSED):
        return ServiceError(
            _sentence(doing, error),
            component=Component.ICEBERG,
            remedy="Check the catalog's login and its rights on this namespace.",
        )
    if isinstance(error, ice.NotInstalledError):
        return ConfigError(_sentence(doing, error), field="iceberg.catalog_type")
    if isinstance(error, _BUSY):
        remedy = "Check that the catalog runs, and iceberg.rest_uri." if _is_away(error) else ""
        return TransientError(_sentence(doing, error), component=Component.ICEBERG, remedy=remedy)
    if isinstance(error, (ice.ValidationError, ice.ValidationException, ice.ResolveError)):
        return SchemaConflictError(_sentence(doing, error))
    found = _from_database(doing, error) or _from_aws(doing, error) or _from_files(doing, error)
    if found is not None:
        return found
    if _is_garbled(error):
        remedy = "Another answer than the file came from the store, or the file is damaged."
        return TransientError(_sentence(doing, error), component=Component.STORAGE, remedy=remedy)
    return ServiceError(_sentence(doing, error), component=Component.ICEBERG)


def _is_garbled(error: BaseException) -> bool:
    """Whether PyIceberg failed in decoding a metadata file: other bytes came than were written.

    It raises whatever the bytes lead to, from UnicodeDecodeError to MemoryError, so it is told by
    where it was raised. Encoding is not meant: what fails there fails each time.
    """
    return any(
        frame.f_code.co_qualname.startswith(_DECODERS.get(frame.f_globals.get("__name__", ""), "-"))
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def _is_away(error: Exception) -> bool:
    """Whether a REST catalog did not answer, or only that it is not well."""
    away = (ice.ServiceUnavailableError, ice.ServerError, requests.ConnectionError)
    return isinstance(error, (*away, requests.Timeout))


def _from_database(doing: str, error: Exception) -> K2IError | None:
    """SQLAlchemy's errors; its own text holds statement and parameters, so the driver's is told."""
    try:
        from sqlalchemy import exc
    except ImportError:  # without the SQL catalog there is no such error
        return None
    if not isinstance(error, exc.SQLAlchemyError):
        return None
    cause = getattr(error, "orig", None) or error
    text = _sentence(doing, cause)
    lowered = text.lower()
    if "disk is full" in lowered or "readonly" in lowered or "unable to open" in lowered:
        return ServiceError(
            text,
            component=Component.ICEBERG,
            remedy="Check space and rights where iceberg.sql_catalog.url points.",
        )
    if "authentication failed" in lowered or "permission denied" in lowered:
        return ServiceError(
            text,
            component=Component.ICEBERG,
            remedy="Check the login in iceberg.sql_catalog.url and its rights.",
        )
    if isinstance(error, (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)):
        return TransientError(text, component=Component.ICEBERG)
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return TransientError(text, component=Component.ICEBERG)
    return ServiceError(text, component=Component.ICEBERG)


def _from_aws(doing: str, error: Exception) -> K2IError | None:
    try:
        from botocore import exceptions as aws
    except ImportError:
        return None
    if isinstance(error, aws.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(error.response.get("Error", {}).get("Code", ""))
        if status >= 500 or status == 429 or "Throttl" in code or "SlowDown" in code:
            return TransientError(_sentence(doing, error), component=Component.ICEBERG)
        remedy = "Check the AWS key and its rights." if _AWS_DENIED.search(code) else ""
        return ServiceError(_sentence(doing, error), component=Component.ICEBERG, remedy=remedy)
    if isinstance(error, (aws.NoCredentialsError, aws.PartialCredentialsError)):
        return ServiceError(
            _sentence(doing, error),
            component=Component.ICEBERG,
            remedy="Give iceberg.aws_access_key_id and iceberg.aws_secret_access_key.",
        )
    if isinstance(error, aws.BotoCoreError):
        return TransientError(_sentence(doing, error), component=Component.ICEBERG)
    return None


def _from_files(doing: str, error: Exception) -> K2IError | None:
    """Errors of local files, and of PyArrow's stores, which tell theirs as `OSError` too."""
    if not isinstance(error, (OSError, pa.ArrowException)):
        return None
    number, text = getattr(error, "errno", None), str(error)
    if number in _NO_SPACE or "No space left" in text:
        remedy = "Free some space, then restart: nothing is lost, Kafka is read again."
        return ServiceError(_sentence(doing, error), component=Component.STORAGE, remedy=remedy)
    if number == errno.EIO:
        # After it nobody knows what a later fsync that works has left out.
        remedy = "Check the disk, then restart: nothing is lost, Kafka is read again."
        return ServiceError(_sentence(doing, error), component=Component.STORAGE, remedy=remedy)
    if isinstance(error, PermissionError) or number in _NO_RIGHT or "Read-only file" in text:
        remedy = (
            "Make the place writable for this user, or set another: iceberg.warehouse_path, or "
            "iceberg.sql_catalog.url."
        )
        return ServiceError(_sentence(doing, error), component=Component.STORAGE, remedy=remedy)
    if number in _NO_PLACE:
        remedy = "Correct the path: iceberg.warehouse_path, or iceberg.sql_catalog.url."
        return ServiceError(_sentence(doing, error), component=Component.STORAGE, remedy=remedy)
    if _DENIED.search(text):
        remedy = "Check the store's access key and its rights on the warehouse."
        return ServiceError(_sentence(doing, error), component=Component.STORAGE, remedy=remedy)
    if _NO_BUCKET.search(text):
        remedy = "Create the bucket, or correct iceberg.warehouse_path."
        return ServiceError(_sentence(doing, error), component=Component.STORAGE, remedy=remedy)
    if isinstance(error, FileNotFoundError):
        return ServiceError(_sentence(doing, error), component=Component.STORAGE)
    if isinstance(error, OSError):  # connection refused or reset, time-out, 5xx of a store
        remedy = "Check that the store answers: iceberg.warehouse_path, iceberg.s3_endpoint."
        return TransientError(_sentence(doing, error), component=Component.STORAGE, remedy=remedy)
    return ServiceError(_sentence(doing, error), component=Component.STORAGE)


def _sentence(doing: str, error: BaseException) -> str:
    """`Reading table a.b failed: NoSuchTableError: ...`, one line, no logins."""
    # What requests says of a failed connection ends with the cause, behind the whole URL.
    cause = getattr(error.args[0], "reason", None) if error.args else None
    lines = str(cause if isinstance(cause, Exception) else error).strip().splitlines()
    said = without_secrets(lines[0])[:300] if lines else ""
    name = type(error).__name__
    told = said if said.startswith(name) else f"{name}: {said}" if said else name
    return f"{doing[:1].upper()}{doing[1:]} failed: {told.rstrip('.')}."


def without_secrets(text: str) -> str:
    """`text` with bearer tokens, `key=value` logins and passwords in URLs starred out."""
    text = _SECRETS[0].sub(r"\1 ***", text)
    text = _SECRETS[1].sub(r"\1=***", text)
    return _SECRETS[2].sub(r"\1***@", text)
