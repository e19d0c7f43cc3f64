"""What worker processes get of the server's environment, and what they may not do."""

from __future__ import annotations

import grp
import os
import pwd
import re
import subprocess
import sys
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
#: Largest number of a user or group; the one above means "nobody in particular" to the kernel.
_MAX_ID, _MAX_DIGITS = 2**32 - 2, 10
#: Longest time that the first worker of an account may take to import what it needs.
_TRIAL_LIMIT_S = 60.0


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


def check_can_work(account: Account) -> None:
    """Sees to it, at the start of the server, that an account can run workers at all.

    Args:
        account: Whom workers run as.

    Raises:
        InvalidRequestError: It cannot; the message has the last line of why.
    """
    command = [sys.executable, "-c", "import flowyard.engines.worker"]
    try:
        subprocess.run(
            command,
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            check=True,
            timeout=_TRIAL_LIMIT_S,
            capture_output=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [f"status {error.returncode}"])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    else:
        return
    raise InvalidRequestError(
        f"worker_user: {account.name} (uid {account.uid}, gid {account.gid}) cannot start a worker, "
        f"which wants to read {sys.prefix} and {sys.base_prefix}: {reason}"
    )


def _account(text: str) -> Account | None:
    """Whom `USER` or `USER:GROUP` means, names or numbers; `None` where that is who the server is itself."""
    user, colon, group = text.partition(":")
    if not user or (colon and not group):
        raise _no_account(text, "USER or USER:GROUP is expected")
    uid, name, own_gid, home = _user(text, user)
    if group:
        gid = _group(text, group)
    elif own_gid is not None:
        gid = own_gid
    else:
        raise _no_account(text, f"uid {uid} has no name, and no group of its own: say {uid}:GROUP")
    if os.geteuid() == 0:
        return Account(name, uid, gid, home)
    if (uid, gid) != (os.geteuid(), os.getegid()):
        raise _no_account(text, "only a server that runs as root can start workers as somebody else")
    return None


def _user(text: str, user: str) -> tuple[int, str, int | None, str]:
    """Number, name, group and home of a user; a number need not be anybody's, as in containers."""
    number = _number(text, user)
    try:
        found = pwd.getpwnam(user) if number is None else pwd.getpwuid(number)
    except KeyError:
        if number is None:
            raise _no_account(text, f"there is no such user: {user[:100]}") from None
        return number, str(number), None, "/"
    return found.pw_uid, found.pw_name, found.pw_gid, found.pw_dir


def _group(text: str, group: str) -> int:
    number = _number(text, group)
    if number is not None:
        return number
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise _no_account(text, f"there is no such group: {group[:100]}") from None


def _number(text: str, part: str) -> int | None:
    if not (part.isascii() and part.isdecimal()):
        return None
    number = int(part[:_MAX_DIGITS])
    if number > _MAX_ID or len(part) > _MAX_DIGITS:
        raise _no_account(text, f"{part[:20]} is over the largest number of a user or group, {_MAX_ID}")
    return number


def _no_account(text: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"worker_user {text[:100]!r}: {why}")
