"""The product's settings as tests use them: fixed environment, quick hashing, nothing that needs a server.

CLOUDOPS_DATABASE_URL is the one variable taken from outside: script/test sets it to run the suite on PostgreSQL.
Processes that a test starts get the product's own settings through the `product_env` fixture.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

_folder = Path("/nonexistent")
_database = "sqlite:///:memory:"
if "pytest" in sys.modules:  # mypy and makemigrations read these settings too, and store nothing
    _folder = Path(tempfile.mkdtemp(prefix="cloudops-tests-"))
    _database = f"sqlite:///{_folder}/unused.sqlite3"
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)

for _name in [name for name in os.environ if name.startswith("CLOUDOPS_")]:
    if _name not in {"CLOUDOPS_DATABASE_URL", "CLOUDOPS_STRICT"} and not _name.startswith(
        ("CLOUDOPS_TEST_", "CLOUDOPS_LAB_")
    ):
        del os.environ[_name]
os.environ.setdefault("CLOUDOPS_DATABASE_URL", _database)
os.environ |= {
    "CLOUDOPS_SECRET_KEY": "tests-only-secret-key-of-more-than-fifty-characters-in-all",
    "CLOUDOPS_ENCRYPTION_KEYS": "dGVzdHMtb25seS1rZXktb2YtdGhpcnR5LXR3by1ieXQ=",
    "CLOUDOPS_PUBLIC_URL": "http://testserver",
    "CLOUDOPS_SERVER_NAME": "test-server",
    "CLOUDOPS_STATIC_ROOT": str(_folder),
    "CLOUDOPS_LOG_LEVEL": "WARNING",
    "CLOUDOPS_LOG_FORMAT": "console",
}

from cloudops.settings import *  # noqa: E402, F403
from cloudops.settings import DATABASES  # noqa: E402

if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # A file, not memory: threads and event loops each open a connection, and all must see the same rows.
    DATABASES["default"]["TEST"] = {"NAME": str(_folder / "test.sqlite3")}

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
CELERY_BROKER_URL = "memory://"
CELERY_TASK_ALWAYS_EAGER = True
CELERY_TASK_EAGER_PROPAGATES = True
WHITENOISE_AUTOREFRESH = True  # every test client has middleware of its own, which would else read all static files
