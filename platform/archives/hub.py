"""Fetching from the Hugging Face Hub (`hf:`), with the token of the server's environment.

huggingface_hub says what a repository holds and how to ask for it (endpoint, token, revision); the files come by our own
download, which knows limits, progress and cancellation.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import msgspec
from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

from flowyard.platform.archives.fetch import FetchLimits, Report, Resolve
from flowyard.platform.archives.hosts import Address, is_public
from flowyard.platform.archives.members import member_parts
from flowyard.platform.archives.remote import RemoteUrl, parse_url
from flowyard.platform.archives.web import Web
from flowyard.schemas.errors import (
    ForbiddenError,
    InvalidRequestError,
    ModelNotFoundError,
    TooLargeError,
    UnavailableError,
)


class Repository(msgspec.Struct, frozen=True):
    """What an `hf:` URL names.

    Attributes:
        name: `OWNER/MODEL`.
        revision: Branch, tag or commit; `None` for the main branch.
        inner: File or folder in it, empty for all of it.
    """

    name: str
    revision: str | None
    inner: str


class _File(msgspec.Struct, frozen=True):
    name: str
    size: int


class HubPolicy:
    """Lets downloads go to the hub that the environment names, and to the public hosts that it redirects to."""

    def __init__(self, hub: RemoteUrl) -> None:
        self._hub = hub

    def check(self, url: RemoteUrl, shown: str) -> None:
        """Where the hub redirects to is its decision."""

    def check_address(self, url: RemoteUrl, address: Address) -> None:
        """Refuses addresses that are not public, other than those of the hub itself."""
        if url.origin != self._hub.origin and not is_public(address):
            raise ForbiddenError(f"{url.origin}, where the hub redirects to, has an address that is not public")


def parse_repository(url: RemoteUrl) -> Repository:
    """Reads `hf://OWNER/MODEL[@REVISION][/PATH]`.

    Args:
        url: The URL.

    Returns:
        What it names.

    Raises:
        InvalidRequestError: There is no model in it.
    """
    first, _, inner = url.path.strip("/").partition("/")
    model, _, revision = first.partition("@")
    if not model:
        raise InvalidRequestError(f"Invalid url: 'hf://{url.host}'; expected is hf://OWNER/MODEL[@REVISION][/PATH]")
    return Repository(f"{url.host}/{model}", revision or None, inner)


async def fetch_repository(url: RemoteUrl, shown: str, into: Path, report: Report, limits: FetchLimits, resolve: Resolve) -> None:
    """Fetches a model's repository or a folder of it into a folder, or one file of it into a file.

    Args:
        url: The URL.
        shown: What messages call it.
        into: Where it goes; nothing is there yet.
        report: Is told the progress.
        limits: How long it may take, and how much it may bring.
        resolve: How the addresses of a host are found.

    Raises:
        InvalidRequestError: The hub does not let the server in.
        ModelNotFoundError: There is no such repository, revision or file.
        TooLargeError: It is more than the settings allow.
        UnavailableError: The hub cannot be reached.
    """
    repository = parse_repository(url)
    revision, files = await asyncio.to_thread(_listed, repository, shown, limits)
    _check_limits(files, shown, limits)
    single = len(files) == 1 and files[0].name == repository.inner
    total, done = sum(file.size for file in files), 0
    for file in files:
        link = parse_url(hf_hub_url(repository.name, file.name, revision=revision))
        path = into if single else _place(into, file.name)
        web = Web(limits, resolve, HubPolicy(link))

        def report_all(fetched: int, _: int | None, done: int = done) -> None:
            report(done + fetched, total)

        await web.download(link, shown, path, report_all, _headers())
        done += file.size


def _place(into: Path, name: str) -> Path:
    path = into.joinpath(*member_parts(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _headers() -> dict[str, str]:
    """What lets the server in: the token that huggingface_hub finds in the environment, or in the file that its login writes."""
    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _listed(repository: Repository, shown: str, limits: FetchLimits) -> tuple[str, list[_File]]:
    """The commit that a revision is now, and the files of it that are meant."""
    try:
        info = HfApi().model_info(repository.name, revision=repository.revision, files_metadata=True, timeout=limits.read_s)
    except GatedRepoError:
        raise InvalidRequestError(
            f"url {shown!r}: the repository is gated; the token in the server's environment (HF_TOKEN) does not open it"
        ) from None
    except HFValidationError:
        raise ModelNotFoundError(f"Invalid model url: {shown}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            # To those it does not let in the hub says 401 of what is not there, too.
            raise ModelNotFoundError(f"Invalid model url: {shown}; the hub answers {status}") from None
        raise UnavailableError(f"url {shown!r}: the hub answers {status}") from None
    except (httpx2.HTTPError, OSError) as error:
        raise UnavailableError(f"url {shown!r}: the hub cannot be asked ({type(error).__name__})") from None
    inner = repository.inner
    files = [_File(sibling.rfilename, sibling.size or 0) for sibling in info.siblings or ()]
    meant = [file for file in files if not inner or file.name == inner or file.name.startswith(inner.rstrip("/") + "/")]
    if not meant:
        raise ModelNotFoundError(f"Invalid model url: {shown}; the repository has nothing there")
    return info.sha or "main", meant


def _check_limits(files: list[_File], shown: str, limits: FetchLimits) -> None:
    if len(files) > limits.max_files:
        raise TooLargeError(f"url {shown!r}: more than {limits.max_files} files (setting max_archive_files)")
    if sum(file.size for file in files) > limits.max_bytes:
        raise TooLargeError(f"url {shown!r}: more than {limits.max_bytes} bytes (setting max_archive_size_bytes)")
