"""The cache, which does without Redis when there is none: nothing that it holds is needed for a right answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import structlog
from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)


def _else(answer: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a method answer with ``answer`` while Redis cannot be asked."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def asked(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except (RedisError, OSError) as error:
                log.warning("cache_unavailable", method=method.__name__, error=str(error))
                return answer

        return asked

    return decorate


class Cache(RedisCache):
    """Django's Redis cache that misses instead of failing. So a dead Redis keeps nobody from signing in (the limits on
    attempts are not counted meanwhile), and pages stay up."""

    add = _else(True)(RedisCache.add)
    set = _else(None)(RedisCache.set)
    touch = _else(False)(RedisCache.touch)
    delete = _else(False)(RedisCache.delete)
    has_key = _else(False)(RedisCache.has_key)
    incr = _else(1)(RedisCache.incr)
    get_many = _else({})(RedisCache.get_many)
    set_many = _else([])(RedisCache.set_many)
    delete_many = _else(None)(RedisCache.delete_many)
    clear = _else(False)(RedisCache.clear)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return _else(default)(RedisCache.get)(self, key, default, version)
