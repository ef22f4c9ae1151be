"""nova-novncproxy for bench/relay.py, run by the Python that nova is installed in.

Everything is nova's own but the look-up of the token, which needs a deployment: it answers from memory here, so nova
pays nothing for its authorisation.
"""

from __future__ import annotations

import sys

from nova import monkey_patch  # type: ignore[import-not-found]

monkey_patch.patch()

from nova import objects  # noqa: E402
from nova.cmd import novncproxy  # type: ignore[import-not-found]  # noqa: E402
from nova.console import websocketproxy  # type: ignore[import-not-found]  # noqa: E402


def main() -> None:
    port, base = int(sys.argv[1]), int(sys.argv[2])

    def connect_info(self: object, context: object, token: str) -> object:
        return objects.ConsoleAuthToken(
            token=token,
            host="127.0.0.1",
            port=base + int(token),
            console_type="novnc",
            access_url_base=f"http://127.0.0.1:{port}/",
            internal_access_path=None,
        )

    websocketproxy.NovaProxyRequestHandler._get_connect_info = connect_info
    sys.argv = ["nova-novncproxy", "--config-file", sys.argv[3]]
    novncproxy.main()


if __name__ == "__main__":
    main()
