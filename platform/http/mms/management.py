"""MMS's management API (TorchServe reference §1.4)."""

from __future__ import annotations

import structlog

from flowyard.platform.http.mms.descriptions import describe
from flowyard.platform.http.torchserve.answers import Answer, json_answer, status_answer
from flowyard.platform.http.torchserve.descriptions import limits
from flowyard.platform.http.torchserve.entries import Model
from flowyard.platform.http.torchserve.errors import NO_METHOD, DownloadError
from flowyard.platform.http.torchserve.management import Management, archive_refusal, read_workers, unregister
from flowyard.platform.http.torchserve.parameters import Parameters, of_query
from flowyard.platform.http.torchserve.registrations import (
    MMS_RUNTIMES,
    Asked,
    read_registration,
    reason_of,
    start_failure,
)
from flowyard.platform.http.torchserve.requests import HttpRequest
from flowyard.platform.http.torchserve.urls import check_relative, is_file_url, is_web_or_file
from flowyard.platform.registry.entries import Entry
from flowyard.schemas.errors import (
    ConflictError,
    FlowyardError,
    ForbiddenError,
    InvalidRequestError,
    MethodNotAllowedError,
    ModelNotFoundError,
    UnavailableError,
)

log = structlog.stdlib.get_logger(__name__)

SECONDS_A_MINUTE = 60
FAILED = "Failed to start workers"


class MmsManagement(Management):
    """Answers the management API: one version of each model, described as an object."""

    async def answer(self, request: HttpRequest) -> Answer | None:
        """Answers a request, `None` where nothing is at its path.

        Raises:
            FlowyardError: It cannot be done.
        """
        match request.method, request.segments:
            case "GET", ["models"]:
                return self._list(of_query(request.query))
            case "POST", ["models"] if self._settings.enable_model_api:
                return await self._register_mms(request)
            case "GET", ["models", name]:
                return json_answer(describe(self._models.default(name), self._settings))
            case "PUT", ["models", name]:
                return await self._scale_mms(name, of_query(request.query))
            case "DELETE", ["models", name] if self._settings.enable_model_api:
                await unregister(self._registry, self._models.default(name), of_query(request.query))
                return status_answer(f'Model "{name}" unregistered')
            case _, ["models"] | ["models", _]:
                raise MethodNotAllowedError(NO_METHOD)
        return None

    async def _register_mms(self, request: HttpRequest) -> Answer:
        given = self._given(request)
        is_query = request.media_type != "application/json"
        unit_s = SECONDS_A_MINUTE if is_query else 1
        if given.text("preload_model") not in (None, "true", "false"):
            raise InvalidRequestError("Parameter preload_model: allowed is true or false.")
        asked = read_registration(given, self._settings, MMS_RUNTIMES, response_timeout_unit_s=unit_s)
        entry = await self._registered(asked, self._checked_url(asked.url))
        model = Model(entry, entry.record.name)
        if not limits(model.pool)[0]:
            return status_answer(f'Model "{model.name}" registered')
        return status_answer("Workers scaled") if asked.synchronous else status_answer("Processing worker updates...", 202)

    async def _scale_mms(self, name: str, given: Parameters) -> Answer:
        low, high = read_workers(given)
        wait = given.flag("synchronous", default=False)
        model = self._models.default(name)
        was_failing = model.pool is not None and model.pool.failing
        try:
            await self.scale(model, low, high, given, wait=wait)
        except UnavailableError as error:
            if was_failing:
                return status_answer("Workers scaling in progress...", 210)
            raise start_failure(FAILED, reason_of(error)) from None
        return status_answer("Workers scaled") if wait else status_answer("Processing worker updates...", 202)

    # ---- texts ----

    def _checked_url(self, url: str) -> str:
        if not self._settings.model_store:
            raise ModelNotFoundError("Model store has not been configured.")
        check_relative(url)
        if is_web_or_file(url) and not is_file_url(url):
            if not self._registry.allows_url(url):
                raise ModelNotFoundError(f"Invalid model url: {url}")
            try:
                self._registry.check_url(url)
            except FlowyardError:
                raise ModelNotFoundError(f"Invalid model url: {url}") from None
            return url
        if not url.strip() or url.startswith("/") or is_file_url(url):
            raise ModelNotFoundError(f"Model not found in model store: {url}")
        if not self._registry.has_file(url):
            raise ModelNotFoundError(f"Model not found in model store: {url}")
        return url

    def _taken(self, name: str, version: str) -> FlowyardError:
        del version
        return ConflictError(f"Model {name} is already registered.")

    def _not_started(self, name: str, version: str) -> str:
        del name, version
        return FAILED

    def _refusal(self, error: FlowyardError, url: str) -> FlowyardError:
        log.warning("registration refused", url=url, reason=str(error))
        if error.fetching:
            code = f", code: {error.remote_status}" if error.remote_status else ""
            return DownloadError(f"Failed to download model from: {url}{code}")
        if isinstance(error, ForbiddenError):
            return ModelNotFoundError(f"Model not found in model store: {url}")
        return archive_refusal(error)

    async def _register_at(self, asked: Asked, url: str) -> Entry:
        if asked.name:
            self._check_free(asked.name)
        return await super()._register_at(asked, url)

    def _check_free(self, name: str) -> None:
        """A name has one version here: a second one is refused, whatever version it is."""
        try:
            self._models.default(name)
        except ModelNotFoundError:
            return
        raise self._taken(name, "")
