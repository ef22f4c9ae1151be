"""The project's own icons: 16 px grid, strokes only, drawn in ``currentColor``."""

from __future__ import annotations

from typing import Final

ICONS: Final[dict[str, str]] = {
    "logo": '<path d="M2.5 4.2 8 1.5l5.5 2.7v7.6L8 14.5l-5.5-2.7z"/><path d="M5 8.2 7.2 10.4 11 6"/>',
    "fleet": '<rect x="2" y="2.5" width="12" height="4.5" rx="1"/><rect x="2" y="9" width="12" height="4.5" rx="1"/>'
    '<path d="M4.5 4.75h.01M4.5 11.25h.01M7 4.75h4.5M7 11.25h4.5"/>',
    "vm": '<rect x="2" y="2.5" width="12" height="9" rx="1"/><path d="M5.5 14h5M8 11.5V14"/>',
    "console": '<rect x="1.75" y="2.5" width="12.5" height="11" rx="1.25"/>'
    '<path d="m4.5 6 2.25 2L4.5 10M8.5 10.25h3"/>',
    "offering": '<path d="M8 1.75 14 5 8 8.25 2 5z"/><path d="m2 8 6 3.25L14 8M2 11l6 3.25L14 11"/>',
    "placement": '<rect x="2" y="2" width="5" height="5" rx="1"/><rect x="9" y="2" width="5" height="5" rx="1"/>'
    '<rect x="2" y="9" width="5" height="5" rx="1"/><path d="M11.5 9.25v4.5M9.25 11.5h4.5"/>',
    "scale": '<path d="M2.25 9.5v4.25H6.5M13.75 6.5V2.25H9.5M2.5 13.5l4.25-4.25M13.5 2.5 9.25 6.75"/>',
    "maintenance": '<path d="M9.8 4.2a3 3 0 0 1 3.9-2l-2 2 .4 1.7 1.7.4 2-2'
    ' M9.6 6.5 2.7 13.3M10 6.2 3.2 13a1.2 1.2 0 0 1-1.7-1.7l6.8-6.8"/>',
    "server": '<path d="M8 1.75v3M8 11.25v3M3.5 8h9"/><circle cx="8" cy="8" r="2.75"/><path d="M2 8h3M11 8h3"/>',
    "audit": '<path d="M3.5 1.75h6.5l2.5 2.5v10h-9z"/><path d="M5.75 6.5h4.5M5.75 9h4.5M5.75 11.5h2.5"/>',
    "project": '<path d="M1.75 4.25c0-.55.45-1 1-1h3.5l1.5 1.75h5.5c.55 0 1 .45 1 1v6.25c0 .55-.45 1-1 1H2.75'
    'c-.55 0-1-.45-1-1z"/>',
    "users": '<circle cx="6" cy="5.25" r="2.5"/><path d="M1.5 13.5c0-2.5 2-4 4.5-4s4.5 1.5 4.5 4"/>'
    '<path d="M10.5 3a2.5 2.5 0 0 1 0 4.6M12 9.9c1.5.5 2.5 1.8 2.5 3.6"/>',
    "user": '<circle cx="8" cy="5.25" r="2.75"/><path d="M2.75 14c0-2.75 2.35-4.5 5.25-4.5s5.25 1.75 5.25 4.5"/>',
    "operation": '<path d="M13.5 8A5.5 5.5 0 1 1 11.6 3.8"/><path d="M13.75 1.75v3h-3M8 5v3.25l2 1.25"/>',
    "activity": '<path d="M1.5 8.5h3l2-5.5 3 10 2-4.5h3"/>',
    "settings": '<path d="M2 4.5h6M12 4.5h2M2 11.5h2M8 11.5h6"/><circle cx="10" cy="4.5" r="1.75"/>'
    '<circle cx="6" cy="11.5" r="1.75"/>',
    "search": '<circle cx="7" cy="7" r="4.25"/><path d="m10.25 10.25 3.5 3.5"/>',
    "plus": '<path d="M8 3v10M3 8h10"/>',
    "minus": '<path d="M3 8h10"/>',
    "close": '<path d="m4 4 8 8M12 4l-8 8"/>',
    "check": '<path d="m3 8.5 3.25 3.25L13 5"/>',
    "chevron-down": '<path d="m4 6 4 4 4-4"/>',
    "chevron-up": '<path d="m4 10 4-4 4 4"/>',
    "chevron-right": '<path d="m6 4 4 4-4 4"/>',
    "chevron-left": '<path d="m10 4-4 4 4 4"/>',
    "arrow-left": '<path d="M13 8H3M7 4 3 8l4 4"/>',
    "arrow-right": '<path d="M3 8h10M9 4l4 4-4 4"/>',
    "more": '<path d="M3.5 8h.01M8 8h.01M12.5 8h.01" stroke-width="2.25"/>',
    "menu": '<path d="M2 4h12M2 8h12M2 12h12"/>',
    "collapse": '<rect x="2" y="2.5" width="12" height="11" rx="1.25"/><path d="M6 2.5v11M11 6.25 9.25 8 11 9.75"/>',
    "copy": '<rect x="5.5" y="5.5" width="8" height="8" rx="1.25"/>'
    '<path d="M10.5 5.5V3.75c0-.7-.55-1.25-1.25-1.25h-5.5'
    'c-.7 0-1.25.55-1.25 1.25v5.5c0 .7.55 1.25 1.25 1.25H5.5"/>',
    "download": '<path d="M8 2.5v7.25M5 7l3 3 3-3M2.5 13.5h11"/>',
    "external": '<path d="M9 2.5h4.5V7M13.25 2.75 7.5 8.5M11.5 9.5v4h-9v-9h4"/>',
    "info": '<circle cx="8" cy="8" r="6"/><path d="M8 7.25v3.75M8 5h.01"/>',
    "warning": '<path d="M8 2 14.5 13.5h-13z"/><path d="M8 6.5v3.25M8 11.6h.01"/>',
    "danger": '<path d="M5.4 2h5.2L14 5.4v5.2L10.6 14H5.4L2 10.6V5.4z"/><path d="M8 5v3.5M8 10.9h.01"/>',
    "clock": '<circle cx="8" cy="8" r="6"/><path d="M8 4.75V8l2.25 1.5"/>',
    "filter": '<path d="M2 4h12M4.5 8h7M6.75 12h2.5"/>',
    "columns": '<rect x="2" y="2.5" width="12" height="11" rx="1.25"/><path d="M6 2.5v11M10 2.5v11"/>',
    "sun": '<circle cx="8" cy="8" r="2.75"/>'
    '<path d="M8 1.5v1.25M8 13.25v1.25M1.5 8h1.25M13.25 8h1.25M3.4 3.4l.9.9M11.7 11.7l.9.9'
    'M3.4 12.6l.9-.9M11.7 4.3l.9-.9"/>',
    "moon": '<path d="M13.5 9.6A5.75 5.75 0 0 1 6.4 2.5a5.75 5.75 0 1 0 7.1 7.1z"/>',
    "density": '<path d="M2 3.5h12M2 6.5h12M2 9.5h12M2 12.5h12"/>',
    "keyboard": '<rect x="1.5" y="4" width="13" height="8.5" rx="1.25"/>'
    '<path d="M4 6.75h.01M6.5 6.75h.01M9 6.75h.01M11.75 6.75h.01'
    'M5 9.75h6"/>',
    "fullscreen": '<path d="M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10"/>',
    "camera": '<path d="M1.75 5h2.75L5.75 3h4.5L11.5 5h2.75v8H1.75z"/><circle cx="8" cy="8.75" r="2.25"/>',
    "type": '<path d="M2.5 4V2.5h11V4M8 2.5v11M5.75 13.5h4.5"/>',
    "clipboard": '<rect x="3" y="3" width="10" height="11" rx="1.25"/><path d="M6 3V1.75h4V3"/>',
    "eye": '<path d="M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8z"/><circle cx="8" cy="8" r="1.9"/>',
    "link": '<path d="M6.75 9.25a2.6 2.6 0 0 0 3.7 0l2.3-2.3a2.6 2.6 0 0 0-3.7-3.7l-.8.8"/>'
    '<path d="M9.25 6.75a2.6 2.6 0 0 0-3.7 0l-2.3 2.3a2.6 2.6 0 0 0 3.7 3.7l.8-.8"/>',
    "power": '<path d="M8 1.75v6M4.6 3.9a5.25 5.25 0 1 0 6.8 0"/>',
    "refresh": '<path d="M13.5 8A5.5 5.5 0 1 1 11.6 3.8M13.75 1.75v3h-3"/>',
    "key": '<circle cx="5.25" cy="10.75" r="2.75"/><path d="m7.25 8.75 6-6M10.75 5.25l2 2"/>',
    "logout": '<path d="M6 2.5H2.75v11H6M10.5 5l3 3-3 3M13.25 8H6"/>',
    "tag": '<path d="M2.5 2.5h5l6 6-5 5-6-6z"/><path d="M5.25 5.25h.01"/>',
    "cluster": '<circle cx="8" cy="3.5" r="1.75"/><circle cx="3.5" cy="12" r="1.75"/>'
    '<circle cx="12.5" cy="12" r="1.75"/>'
    '<path d="M7.2 5.1 4.3 10.4M8.8 5.1l2.9 5.3M5.25 12h5.5"/>',
    "edit": '<path d="M10.5 3 13 5.5 5.5 13H3v-2.5z"/>',
    "trash": '<path d="M2.75 4.25h10.5M6 4.25V2.5h4v1.75M4 4.25l.75 9.25h6.5L12 4.25"/>',
    "bell": '<path d="M4 7a4 4 0 0 1 8 0c0 3 1.25 4 1.25 4H2.75S4 10 4 7zM6.5 13.25a1.6 1.6 0 0 0 3 0"/>',
}
