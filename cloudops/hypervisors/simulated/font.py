"""The VGA text font, 8 x 16 pixels, for the characters from space to tilde (public domain, as in every VGA BIOS)."""

from __future__ import annotations

import base64
import zlib

GLYPH_WIDTH = 8
GLYPH_HEIGHT = 16
FIRST, LAST = 32, 126

_PACKED = (
    "c-nPTy=vqz5H=}P8Iw}Qk}412>M(~MMubD8P_dP9Axx@$hkF~}8dRApudy+y_S&sNip9RsXe7%U?!&wI^EaA*JIn6Dg%F(c3@!(y"
    ")brjz>qX-at+}!1&M<behE8N>oAXlIlV_FIRXq*EP$MnNQtsS=ErREs!wrI$(L{+=s5C|1hFHn7<UqD$U+an|9+=Cod-F`Fz8}ZF"
    "SAy)Sh9g?fjrHbsiJS?>m^GCDLFi$Dgr6vM*LAl<uOx5_AiltPUvuyWQlh*27S89*F7u>d;-Oqj54y&pL5o)aYR)G5&y)G$gL$5("
    "j^aO7+S<h><oOLYz`#%4Lch*XVRsJw`qT=cKdC<T^4h%07q#rTl-K0^Y_0n4xr>D1D4yU1^8bX}0Q*DzxIn0;fuI-9uM!dC^?%nD"
    "#t9(*myc!sz4^ypC;i6y<dz@le`b>xQFk?7qAshP#q;a<bC<8Z^WS?Y!4p1?t5Si3#N8G~U5Uis+MnF;e)TK$rzDV`y>;)$>QJx;"
    "(sP0c)6D*d)xD1V>+>cz@qNwSrEGA-ChEq*0)+Yw5J?Z4J?hJ*SNey%CjAA}&U`RAjuiasT5bJ>y{yuHGL{t#p>XBE-Y)>zS9km3"
    "R%9I=BA@(*Cix}viMoj?hWx@SJ=JQLzi}H7&Oesr&5h&RA?kQM>BnyVp1TFuIEb(Sk^B8=Ssq@g!F^9@zY8e!=;|%vhmYeQ`FEPL"
    ";YTWFN=N$-lb2;e"
)
_ROWS = zlib.decompress(base64.b85decode(_PACKED))


def glyph(character: str) -> bytes:
    """Sixteen bytes, one per line of pixels from the top, the leftmost pixel in the highest bit."""
    code = ord(character)
    offset = (code if FIRST <= code <= LAST else ord("?")) - FIRST
    return _ROWS[offset * GLYPH_HEIGHT : (offset + 1) * GLYPH_HEIGHT]
