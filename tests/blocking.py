"""The asynchronous client with the methods of the blocking one, so that one test asks both.

Invariant: nothing is changed but that the caller waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

from mlaas4hep.client import AsyncClient


class Blocking:
    """An `AsyncClient` on an event loop of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        try:
            self._client = self._runner.run(self._made(arguments, options))
        except BaseException:
            self._runner.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments, **options: self._runner.run(method(*arguments, **options))

    @staticmethod
    async def _made(arguments: Any, options: Any) -> AsyncClient:
        return AsyncClient(*arguments, **options)
