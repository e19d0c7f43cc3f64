"""The error tree as MMS tells it: status and `type` (TorchServe reference §1.4)."""

from __future__ import annotations

from flowyard.platform.http.torchserve import errors as torchserve
from flowyard.platform.http.torchserve.answers import Answer
from flowyard.schemas import errors

#: Class -> status and wire type, where MMS differs from TorchServe. A class that is not listed takes its nearest base's row.
TABLE: dict[type[errors.FlowyardError], tuple[int, str]] = torchserve.TABLE | {
    errors.ForbiddenError: (500, "IllegalArgumentException"),
    torchserve.VersionNotFoundError: (404, "ModelNotFoundException"),
    torchserve.NegativeWorkersError: (400, "BadRequestException"),
    torchserve.DownloadError: (400, "DownloadModelException"),
}


def error_answer(error: errors.FlowyardError) -> Answer:
    """Tells an error."""
    return torchserve.error_answer(error, TABLE)
