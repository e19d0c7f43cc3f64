"""What worker processes get of the server's environment, and what they may not do."""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Mapping

import msgspec

from flowyard.platform.settings import Settings
from flowyard.schemas.errors import InvalidRequestError

#: Environment variables that a worker gets. No other one, so that no secret of the server reaches user code.
PASSED_ENV = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
PASSED_ENV_PREFIXES = ("CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "ORT_", "TORCH_", "PYTORCH_", "HF_")
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: Names that go with secrets, such as HF_TOKEN; passed only where the setting `worker_env` has them.
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|PRIVATE|AUTH|(?:API|ACCESS)_?KEY")


class Account(msgspec.Struct, frozen=True):
    """Whom a worker runs as, where that is not the server's own user."""

    name: str
    uid: int
    gid: int
    home: str


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """What workers get and may.

    Attributes:
        env: Names of environment variables that they get besides the usual ones.
        account: Whom they run as, `None` for the server's own user.
        open_files: Most files open, `None` for the server's own limit.
        address_space_bytes: Most memory mapped, `None` for no limit.
        cpu_s: Computing time after which they are ended, `None` for no limit.
    """

    env: tuple[str, ...] = ()
    account: Account | None = None
    open_files: int | None = None
    address_space_bytes: int | None = None
    cpu_s: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> Confinement:
        """From the settings.

        Raises:
            InvalidRequestError: There is no such user or group, or the server may not become another one.
        """
        return cls(
            env=settings.worker_env,
            account=_account(settings.worker_user) if settings.worker_user else None,
            open_files=settings.worker_open_files,
            address_space_bytes=settings.worker_address_space_bytes,
            cpu_s=settings.worker_cpu_s,
        )

    def arguments(self) -> list[str]:
        """The limits as arguments of the worker's command line."""
        limits = {"--open-files": self.open_files, "--address-space-bytes": self.address_space_bytes, "--cpu-s": self.cpu_s}
        return [argument for name, limit in limits.items() if limit is not None for argument in (name, str(limit))]

    def environment(self, environ: Mapping[str, str], threads: int) -> dict[str, str]:
        """The environment of a worker, from the server's.

        Args:
            environ: The server's environment.
            threads: Threads that the numerical libraries may use; they read it when they are loaded, before the engine can
                say it.

        Returns:
            What is on the list of variables a worker needs and is no secret, what `env` adds, and `PYTHONUNBUFFERED` so that
            prints are not lost with a killed worker.
        """
        passed = {key: value for key, value in environ.items() if key in self.env or _is_usual(key)}
        limits = dict.fromkeys(THREAD_LIMITS, str(threads))
        own = {"HOME": self.account.home, "USER": self.account.name} if self.account else {}
        return limits | passed | own | {"PYTHONUNBUFFERED": "1"}


def _is_usual(key: str) -> bool:
    return key in PASSED_ENV or (key.startswith(PASSED_ENV_PREFIXES) and _SECRET.search(key) is None)


def _account(text: str) -> Account:
    user, _, group = text.partition(":")
    try:
        found = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        gid = found.pw_gid if not group else int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except (KeyError, OverflowError) as error:
        raise InvalidRequestError(f"worker_user {text[:100]!r}: there is no such user or group: {error}") from None
    if os.geteuid() != 0 and found.pw_uid != os.geteuid():
        raise InvalidRequestError(
            f"worker_user {text[:100]!r}: only a server that runs as root can start workers as somebody else"
        )
    return Account(found.pw_name, found.pw_uid, gid, found.pw_dir)
