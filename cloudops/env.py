"""Every boot-time value that comes from the environment: typed, documented, read once.

What an operator tunes while the product runs is not here but in ``core.models.RuntimeSettings``; no name is in both.
docs/configuration.md lists the same variables; a test holds the two together.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent


class MisconfiguredError(Exception):
    """An environment variable is missing or cannot be understood; the text says which and how to mend it."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One documented environment variable."""

    name: str
    kind: str
    default: str
    help: str


VARIABLES: dict[str, Variable] = {}


def _read(name: str, kind: str, default: str, help_text: str) -> str:
    VARIABLES[name] = Variable(name, kind, default, help_text)
    return os.environ.get(name, default).strip()


def env_str(name: str, default: str, help_text: str, *, choices: tuple[str, ...] = ()) -> str:
    """A text value; with ``choices``, one of them."""
    value = _read(name, "text", default, help_text)
    if choices and value not in choices:
        raise MisconfiguredError(f"{name} is {value!r}. Set it to one of: {', '.join(choices)}.")
    return value


def env_int(name: str, default: int, help_text: str) -> int:
    """A whole number."""
    value = _read(name, "integer", str(default), help_text)
    try:
        return int(value)
    except ValueError:
        raise MisconfiguredError(f"{name} is {value!r}. Set it to a whole number, for example {default}.") from None


def env_bool(name: str, default: bool, help_text: str) -> bool:
    """``true`` or ``false``."""
    value = _read(name, "boolean", "true" if default else "false", help_text).lower()
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off", ""}:
        return False
    raise MisconfiguredError(f"{name} is {value!r}. Set it to true or false.")


def env_list(name: str, default: str, help_text: str) -> list[str]:
    """Comma-separated values, blanks removed."""
    value = _read(name, "list", default, help_text)
    return [item.strip() for item in value.split(",") if item.strip()]


def env_secret(name: str, help_text: str) -> str:
    """A secret: ``NAME`` itself, or the content of the file that ``NAME_FILE`` names."""
    value = _read(name, "secret", "", f"{help_text} `{name}_FILE` may name a file that holds it.")
    path = os.environ.get(f"{name}_FILE", "")
    if value or not path:
        return value
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise MisconfiguredError(f"{name}_FILE names {path!r}, which cannot be read: {error.strerror}.") from None


DatabaseConfig = dict[str, object]


def database_config(url: str) -> DatabaseConfig:
    """Django's DATABASES entry for ``sqlite:///PATH`` or ``postgresql://USER:PASSWORD@HOST:PORT/NAME``.

    A PostgreSQL host may be a directory (its Unix socket), percent-encoded. Raises :class:`MisconfiguredError`.
    """
    parts = urlsplit(url)
    scheme = parts.scheme
    if scheme == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": parts.path[1:] or ":memory:",
            "OPTIONS": {
                "timeout": 20,
                # A transaction that will write takes its lock at once: no upgrade that fails half-way.
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;",
            },
        }
    if scheme in {"postgresql", "postgres"}:
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.removeprefix("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": unquote(parts.hostname or ""),
            "PORT": str(parts.port or ""),
            "CONN_HEALTH_CHECKS": True,
            "OPTIONS": {
                "connect_timeout": 5,
                # Only for cursors that ask for it (placement/prepared.py); a plan made once serves any parameters.
                "prepare_threshold": 5,
                # Under ASGI requests run on many threads: a pool keeps connections few and their start cheap.
                "pool": {"min_size": 1, "max_size": 20, "timeout": 10},
                "options": " ".join(
                    (
                        "-c statement_timeout=20000",
                        "-c lock_timeout=10000",
                        "-c plan_cache_mode=force_generic_plan",
                        "-c idle_in_transaction_session_timeout=60000",
                    )
                ),
            },
        }
    raise MisconfiguredError(
        f"CLOUDOPS_DATABASE_URL begins with {scheme!r}. "
        "Use sqlite:////absolute/path or postgresql://user:password@host/name."
    )


DEBUG = env_bool("CLOUDOPS_DEBUG", False, "Django's debug mode. Never in production.")
SECRET_KEY = env_secret(
    "CLOUDOPS_SECRET_KEY", "Signs sessions. At least 50 random characters, the same on every server."
)
ENCRYPTION_KEYS = [
    key.strip()
    for key in env_secret(
        "CLOUDOPS_ENCRYPTION_KEYS",
        "Fernet keys, comma-separated, that encrypt stored credentials: the first encrypts, all decrypt. "
        "The same on every server.",
    ).split(",")
    if key.strip()
]
DATABASE_URL = env_str(
    "CLOUDOPS_DATABASE_URL",
    "sqlite:////var/lib/cloudops/cloudops.sqlite3",
    "`sqlite:////absolute/path` (one server) or `postgresql://user:password@host:5432/name` (any number of servers).",
)
REDIS_URL = env_str(
    "CLOUDOPS_REDIS_URL",
    "redis://127.0.0.1:6379/0",
    "Redis for live updates, Celery and rate limits: `redis://host:6379/0` or `unix:///path/redis.sock`.",
)
PUBLIC_URL = env_str(
    "CLOUDOPS_PUBLIC_URL",
    "http://localhost:8080",
    "The address people use, without a path. Console links begin with it unless the console base URL is set.",
).rstrip("/")
CONSOLE_BASE_URL = env_str(
    "CLOUDOPS_CONSOLE_BASE_URL",
    "",
    "Public console base URL (OpenStack: `novncproxy_base_url`). Empty: the public URL.",
).rstrip("/")
ALLOWED_HOSTS = env_list(
    "CLOUDOPS_ALLOWED_HOSTS", "", "Host names that the server answers to, besides the public and console URLs' own."
)
TRUSTED_PROXIES = env_list(
    "CLOUDOPS_TRUSTED_PROXIES",
    "",
    "Addresses or networks of load balancers whose X-Forwarded-For and -Proto are believed.",
)
METRICS_ALLOWED = env_list(
    "CLOUDOPS_METRICS_ALLOWED", "127.0.0.1,::1", "Addresses or networks that may read /metrics without a token."
)
METRICS_DIR = env_str(
    "CLOUDOPS_METRICS_DIR",
    "",
    "Empty directory at boot in which this server's processes keep their counters together, so that any web process "
    "answers /metrics for all of them. Empty: every process counts alone.",
)
SERVER_NAME = env_str("CLOUDOPS_SERVER_NAME", "", "Name of this management server. Empty: the machine's host name.")
LOG_LEVEL = env_str(
    "CLOUDOPS_LOG_LEVEL", "INFO", "Least severity that is logged.", choices=("DEBUG", "INFO", "WARNING", "ERROR")
)
LOG_FORMAT = env_str(
    "CLOUDOPS_LOG_FORMAT", "json", "`json` for machines, `console` for people.", choices=("json", "console")
)
EMAIL_URL = env_str(
    "CLOUDOPS_EMAIL_URL", "", "`smtp://user:password@host:587` for password mails. Empty: no mail is sent."
)
OIDC_SERVER_URL = env_str(
    "CLOUDOPS_OIDC_SERVER_URL",
    "",
    "OpenID Connect issuer, `https://…`, exactly as the provider names itself. Empty: no single sign-on.",
)
OIDC_CLIENT_ID = env_str("CLOUDOPS_OIDC_CLIENT_ID", "", "OpenID Connect client id.")
OIDC_CLIENT_SECRET = env_secret("CLOUDOPS_OIDC_CLIENT_SECRET", "OpenID Connect client secret.")
OIDC_NAME = env_str("CLOUDOPS_OIDC_NAME", "Single sign-on", "What the sign-in button says.")
OIDC_LINK_BY_EMAIL = env_bool(
    "CLOUDOPS_OIDC_LINK_BY_EMAIL",
    True,
    "Whether somebody new to single sign-on gets the one account that has their verified e-mail address. "
    "False: they are refused while such an account exists.",
)
STATIC_ROOT = env_str("CLOUDOPS_STATIC_ROOT", str(ROOT / "staticfiles"), "Where collectstatic puts files.")
SIMULATED_DIR = env_str(
    "CLOUDOPS_SIMULATED_DIR",
    "",
    "Directory below which simulated hosts may keep their state (`&state=/path` in their URI). Empty: nowhere.",
)
