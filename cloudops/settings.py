"""Django's settings. Values that differ between installations come from ``env``; everything else is fixed here."""

from __future__ import annotations

import ipaddress
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

from cloudops import env, logs

BASE_DIR = Path(__file__).resolve().parent.parent
DEBUG = env.DEBUG
if not env.SECRET_KEY:
    raise env.MisconfiguredError("CLOUDOPS_SECRET_KEY is not set. Set it to at least 50 random characters.")
SECRET_KEY = env.SECRET_KEY
if not env.ENCRYPTION_KEYS:
    raise env.MisconfiguredError(
        "CLOUDOPS_ENCRYPTION_KEYS is not set. Make one with: "
        'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'
    )
ENCRYPTION_KEYS = env.ENCRYPTION_KEYS

PUBLIC_URL = env.PUBLIC_URL
CONSOLE_BASE_URL = env.CONSOLE_BASE_URL or env.PUBLIC_URL
SERVER_NAME = env.SERVER_NAME or socket.gethostname()
_public = [urlsplit(PUBLIC_URL), urlsplit(CONSOLE_BASE_URL)]
SECURE = all(url.scheme == "https" for url in _public)
ALLOWED_HOSTS = sorted(
    {*(url.hostname or "" for url in _public), *env.ALLOWED_HOSTS, "localhost", "127.0.0.1", "[::1]"}
)
CSRF_TRUSTED_ORIGINS = sorted({f"{url.scheme}://{url.netloc}" for url in _public})
TRUSTED_PROXIES = [ipaddress.ip_network(item, strict=False) for item in env.TRUSTED_PROXIES]
REDIS_URL = env.REDIS_URL
METRICS_DIR = env.METRICS_DIR
SIMULATED_DIR = env.SIMULATED_DIR
METRICS_ALLOWED = [ipaddress.ip_network(item, strict=False) for item in env.METRICS_ALLOWED]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "django_filters",
    "django_htmx",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "cloudops.core",
    "cloudops.accounts",
    "cloudops.inventory",
    "cloudops.managers",
    "consoles",
    "placement",
    "scaling",
]

MIDDLEWARE = [
    "cloudops.core.middleware.RequestContextMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "cloudops.core.middleware.ContentSecurityPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "cloudops.core.middleware.ProblemMiddleware",
    "cloudops.core.middleware.AddressMiddleware",
]

ROOT_URLCONF = "cloudops.urls"
ASGI_APPLICATION = "cloudops.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "cloudops.accounts.context.frame",
            ],
            "builtins": ["cloudops.core.templatetags.ui"],
        },
    }
]

DATABASES = {"default": env.database_config(env.DATABASE_URL)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {
    "default": {
        "BACKEND": "cloudops.core.cache.Cache",
        "LOCATION": env.REDIS_URL,
        "KEY_PREFIX": "cloudops",
        "OPTIONS": {"socket_timeout": 2, "socket_connect_timeout": 2},
    }
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [{"address": env.REDIS_URL}], "prefix": "cloudops"},
    }
}

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "email", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_ADAPTER = "cloudops.accounts.adapters.AccountAdapter"
SOCIALACCOUNT_ADAPTER = "cloudops.accounts.adapters.SocialAccountAdapter"
ACCOUNT_SESSION_REMEMBER = False
ACCOUNT_RATE_LIMITS = {"login": "30/m/ip", "login_failed": "10/m/ip,5/300s/key"}
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
MFA_TOTP_ISSUER = "CloudOps"
MFA_ADAPTER = "cloudops.accounts.adapters.MfaAdapter"
SOCIALACCOUNT_ONLY = False
OIDC_LINK_BY_EMAIL = env.OIDC_LINK_BY_EMAIL
_oidc = urlsplit(env.OIDC_SERVER_URL)
if env.OIDC_SERVER_URL and _oidc.scheme != "https" and _oidc.hostname not in {"localhost", "127.0.0.1", "::1"}:
    raise env.MisconfiguredError(
        f"CLOUDOPS_OIDC_SERVER_URL is {env.OIDC_SERVER_URL!r}. Set it to an https:// address: "
        "who signs in is believed because TLS says who answers."
    )
SOCIALACCOUNT_PROVIDERS = (
    {
        "openid_connect": {
            "OAUTH_PKCE_ENABLED": True,
            "APPS": [
                {
                    "provider_id": "sso",
                    "name": env.OIDC_NAME,
                    "client_id": env.OIDC_CLIENT_ID,
                    "secret": env.OIDC_CLIENT_SECRET,
                    "settings": {"server_url": env.OIDC_SERVER_URL},
                }
            ],
        }
    }
    if env.OIDC_SERVER_URL
    else {}
)

SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")  # the middleware drops it from untrusted peers
ACCOUNT_DEFAULT_HTTP_PROTOCOL = "https" if SECURE else "http"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = SECURE
SESSION_COOKIE_AGE = 12 * 3600
CSRF_COOKIE_SECURE = SECURE
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "cloudops.core.views.csrf_failure"
SECURE_HSTS_SECONDS = 31_536_000 if SECURE else 0
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SILENCED_SYSTEM_CHECKS = (
    ["security.W004", "security.W008", "security.W012", "security.W016"] if not SECURE else ["security.W008"]
)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "cloudops.accounts.tokens.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["cloudops.accounts.permissions.ApiPermission"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_PAGINATION_CLASS": "cloudops.core.pagination.Keyset",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_THROTTLE_CLASSES": ["cloudops.core.throttling.UserThrottle", "cloudops.core.throttling.AnonThrottle"],
    "DEFAULT_THROTTLE_RATES": {
        "user": "1200/min",
        "anon": "60/min",
        "console_opening": "120/min",
        "token_creation": "20/hour",
    },
    "EXCEPTION_HANDLER": "cloudops.core.problems.api_exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}

CELERY_BROKER_URL = re.sub(r"^unix://", "redis+socket://", env.REDIS_URL)
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_TIME_LIMIT = 900
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 1800,
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    # Who queues a task while Redis is away is told so at once; workers wait for it in a loop of their own.
    "max_retries": 1,
    "interval_start": 0.1,
}
CELERY_TIMEZONE = "UTC"

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = env.STATIC_ROOT
STATICFILES_DIRS = [BASE_DIR / "cloudops" / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = True

if env.EMAIL_URL:
    _mail = urlsplit(env.EMAIL_URL)
    EMAIL_HOST, EMAIL_PORT = _mail.hostname or "", _mail.port or 25
    EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _mail.username or "", _mail.password or ""
    EMAIL_USE_TLS = EMAIL_PORT == 587
    EMAIL_TIMEOUT = 10
else:
    EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"

LOGGING_CONFIG = None
logs.configure(level=env.LOG_LEVEL, style=env.LOG_FORMAT)

SPECTACULAR_SETTINGS = {
    "TITLE": "CloudOps API",
    "DESCRIPTION": "Everything the screens can do. Errors are problem+json (RFC 9457) with a code and a remedy.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1/",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "SORT_OPERATION_PARAMETERS": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "cloudops.core.schema.describe_errors",
    ],
    "ENUM_NAME_OVERRIDES": {
        "RoleEnum": "cloudops.accounts.models.Role",
        "ServerRoleEnum": "cloudops.managers.models.ServerProcess.Role",
        "KindEnum": "cloudops.inventory.models.Endpoint.KINDS",
        "OfferingKindEnum": "cloudops.inventory.models.OfferingKind",
        "OperationStatusEnum": "cloudops.core.models.Operation.Status",
        "AffinityKindEnum": "placement.models.AffinityGroup.Kind",
        "DriftKindEnum": "placement.serializers.DRIFT_KINDS",
        "MigrationModeEnum": "placement.models.VmMigration.Mode",
        "MaintenanceModeEnum": "placement.models.Maintenance.Mode",
        "MaintenanceStartModeEnum": "placement.serializers_maintenance.START_MODES",
        "MaintenanceStatusEnum": "placement.models.MaintenanceStatus",
        "MaintenanceHostStatusEnum": "placement.models.MaintenanceHostStatus",
        "MoveStatusEnum": "placement.models.MoveStatus",
        "VmChoiceEnum": "placement.serializers_maintenance.MAIN_CHOICES",
        "MoveChoiceEnum": "placement.serializers_maintenance.CHOICES",
        "RelaxationEnum": "placement.serializers_maintenance.RELAXED_CHOICES",
        "DecisionOutcomeEnum": "placement.models.Decision.Outcome",
        "ReachEnum": "scaling.serializers.REACHES",
        "WayEnum": "scaling.serializers.HOWS",
        "ResizeModeEnum": "scaling.models.Resize.Mode",
        "ResizePhaseEnum": "scaling.models.Resize.Phase",
    },
    "TAGS": [
        {"name": "me", "description": "Who am I, and what may I do?"},
        {"name": "vms", "description": "VMs: list, power, screenshot, assignment."},
        {"name": "console-sessions", "description": "Consoles: open, watch, disconnect."},
        {"name": "console-usage", "description": "Console slots in use, of hosts, VMs and people."},
        {"name": "release-requests", "description": "Asking others for a console slot, and answering."},
        {"name": "foreign-connections", "description": "Display connections that were not made through CloudOps."},
        {"name": "hosts", "description": "Hypervisor hosts."},
        {"name": "clusters", "description": "Hosts among which VMs may move freely."},
        {"name": "offerings", "description": "What VMs may be."},
        {"name": "templates", "description": "What VMs were made from, with the host tags that they ask for."},
        {"name": "tags", "description": "Words that hosts carry and offerings ask for."},
        {"name": "capacity", "description": "Room of clusters and hosts; claims compared with hypervisors."},
        {"name": "placements", "description": "Where would a VM go?"},
        {"name": "decisions", "description": "Where VMs went, and why, host by host."},
        {"name": "cluster-policies", "description": "How clusters differ from the placement settings."},
        {"name": "affinity-groups", "description": "VMs that belong together or apart."},
        {"name": "migrations", "description": "Moving VMs between hosts."},
        {"name": "maintenances", "description": "Emptying hosts live, and bringing VMs home."},
        {"name": "scaling", "description": "What VMs have and could become, before anything is touched; many at once."},
        {"name": "resizes", "description": "Changes of VMs' sizes."},
        {"name": "headroom", "description": "How far VMs can grow while they run."},
        {"name": "operations", "description": "Long-running jobs."},
        {"name": "events", "description": "The audit trail."},
        {"name": "settings", "description": "Run-time settings."},
        {"name": "servers", "description": "The management servers' processes."},
        {"name": "users", "description": "People."},
        {"name": "projects", "description": "Tenants."},
        {"name": "memberships", "description": "Who belongs to which project."},
        {"name": "tokens", "description": "One's own API tokens."},
    ],
}
